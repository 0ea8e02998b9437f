//! Writing several buffers as one.

use std::io::{Error, ErrorKind, IoSlice, Result};

use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Writes all of `parts`, one after the other, in as few calls as the stream allows: a head of a few bytes is not to become
/// a packet, or a record of TLS, of its own.
pub(super) async fn write_all<W, const N: usize>(io: &mut W, parts: [&[u8]; N]) -> Result<usize>
where
    W: AsyncWrite + Unpin,
{
    let whole: usize = parts.iter().map(|part| part.len()).sum();
    let mut slices = parts.map(IoSlice::new);
    let mut rest = &mut slices[..];
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let written = io.write_vectored(rest).await?;
        if written == 0 {
            return Err(Error::new(ErrorKind::WriteZero, "the stream takes no more"));
        }
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(whole)
}
