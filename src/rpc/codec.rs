//! The codec of the services of boxoffice: the codec of tonic-prost with smaller buffers.
//!
//! tonic-prost allocates 8 KiB per call and direction, and a stream keeps these buffers until it ends. Most messages
//! have 100 to 200 bytes, and a replica has tens of thousands of open streams.

use std::marker::PhantomData;

use prost::{Message, bytes::BufMut};
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::Encoded;

/// Initial size of the buffer of a decoder, in bytes. The buffer grows if necessary.
const BUFFER: usize = 256;
/// Number of encoded bytes of a stream after which tonic sends the messages and starts a new buffer.
const YIELD: usize = 32 * 1_024;

/// Encodes messages `T` and decodes messages `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Encodes messages `T`. Its buffer grows at most once per message.
pub struct Encoder<T>(PhantomData<T>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

/// A message that [`Encoder`] writes.
pub trait Outgoing: Send + 'static {
    /// Writes the encoded message to the end of `buffer`. Enlarges the buffer at most once.
    fn write(&self, buffer: &mut EncodeBuf<'_>);
}

impl<T: Message + 'static> Outgoing for T {
    fn write(&self, buffer: &mut EncodeBuf<'_>) {
        buffer.reserve(self.encoded_len());
        // `reserve` made enough room, so this does not fail.
        self.encode_raw(buffer);
    }
}

impl<T: Message + 'static> Outgoing for Encoded<T> {
    fn write(&self, buffer: &mut EncodeBuf<'_>) {
        match self {
            Self::Message(message) => message.write(buffer),
            Self::Bytes(bytes) => {
                buffer.reserve(bytes.len());
                buffer.put_slice(bytes);
            }
        }
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Outgoing,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        Encoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<U, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}

impl<T: Outgoing> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.write(buffer);
        Ok(())
    }

    /// Returns a buffer size of almost 0, because `encode` reserves the size of the message. The size is not 0, because
    /// compression divides by it.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(1, YIELD)
    }
}
