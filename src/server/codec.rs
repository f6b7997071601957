//! How messages are encoded: like tonic's own codec, but into smaller buffers. When a buffer is given back, the allocator wipes all of it,
//! also the part that was never used.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Room in bytes for most answers. It grows for larger ones.
const BUFFER: usize = 4 * 1024;

/// From this many bytes on, a part of a stream is sent: tonic's own number.
const YIELD: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for SmallBuffers<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        // The size of the message is known: there is exactly that much room.
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(0, YIELD))
    }
}
