//! The codec of all services: that of tonic-prost, with buffers that fit the message.
//!
//! The buffers of tonic-prost take 8 KiB per call and direction, and a stream keeps them as long as it is open. Most
//! messages here have 100 to 200 bytes, and a replica keeps tens of thousands of streams open.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{self, BufferSettings, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder};

/// Initial size of a decoder's buffer, in bytes; it grows as needed.
const BUFFER: usize = 256;
/// Messages of a stream that are ready at the same time are sent together, up to this number of bytes.
const YIELD: usize = 32 * 1_024;

/// Encodes messages `T` and decodes messages `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Encodes messages `T` into a buffer that grows once per message.
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

    /// Reserves next to nothing before there is a message. The size is not 0, since compression divides by it.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(1, YIELD)
    }
}
