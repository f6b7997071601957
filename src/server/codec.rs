//! How messages are encoded: as tonic's own codec does it, but into smaller buffers. The allocator wipes all of a buffer when it is given
//! back, also what was never written to.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::ProstCodec;

/// Room in bytes for most answers. For what is larger it grows.
const BUFFER: usize = 4 * 1024;

/// From so many bytes on a part of a stream is sent: tonic's own number.
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
        // What has arrived is known: there is room for just that.
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(0, YIELD))
    }
}
