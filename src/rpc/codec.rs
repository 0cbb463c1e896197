//! How messages become bytes: as tonic-prost has it, but with buffers of the size of the message.
//!
//! Its own reserve 8 KiB for each call in each direction, and for as long as a stream is open. Messages here have a hundred bytes or two,
//! but for lists, and a replica keeps tens of thousands of streams open.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Bytes to begin with; what a decoder needs more, it reserves.
const BUFFER: usize = 256;
/// Messages of a stream that wait at the same time are sent together until they have so many bytes.
const YIELD: usize = 32 * 1_024;

/// Codec of all services: sends `T` and receives `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Encodes `T` into a buffer that grows once.
pub struct Encoder<T>(PhantomData<T>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
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
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, YIELD))
    }
}

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        // The buffer has room for it, so this does not fail.
        message.encode_raw(buffer);
        Ok(())
    }

    /// Nothing before there is a message.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(0, YIELD)
    }
}
