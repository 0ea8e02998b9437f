//! What a link takes of a peer that is not trusted yet, and what that peer is told.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use metra_core::code::Code;
use metra_core::wire::stream::{self as frame, StreamFrame};
use metra_transport::{Link, LinkError, LinkKind, Rt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::*;

const MAY_SEND: usize = 10_000;

/// A link that does not trust its peer, and the bytes of that.
fn stranger() -> (Arc<dyn Link>, DuplexStream) {
    let (a, b) = tokio::io::duplex(1 << 20);
    let opened = Opened {
        kind: LinkKind::Tls,
        peer: "192.0.2.1:4443".parse().unwrap(),
        certificates: None,
        rtt: None,
        key: None,
    };
    let tuning = LinkTuning { from_strangers: Some(MAY_SEND), ..LinkTuning::default() };
    (StreamLink::start(&Rt::tokio(), Box::new(a), opened, tuning), b)
}

fn framed(kind: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::put_head(kind, len, &mut bytes);
    bytes.resize(bytes.len() + len, 0);
    bytes
}

/// The code with which the link was closed, as the peer sees it.
async fn told(mut peer: DuplexStream) -> Code {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).await.unwrap();
    let mut rest = &all[..];
    while let Some((kind, len)) = frame::head(&mut rest).unwrap() {
        if let Ok(StreamFrame::Close(code, _)) = StreamFrame::decode(kind, &rest[..len]) {
            return code;
        }
        rest = &rest[len..];
    }
    panic!("the peer was not told");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_may_send_so_much_and_nobody_need_take_it() {
    let (link, mut peer) = stranger();
    peer.write_all(&framed(frame::CONTROL, MAY_SEND - 3)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (_send, mut recv) = link.control().await.unwrap();
    let mut taken = 0;
    while taken < MAY_SEND - 3 {
        taken += recv.recv().await.unwrap().unwrap().len();
    }
    peer.write_all(&[0x21]).await.unwrap();
    assert!(matches!(link.closed().await, LinkError::Protocol(_)));
    assert_eq!(told(peer).await, Code::Limit);
}

#[tokio::test(start_paused = true)]
async fn a_stranger_sends_no_chunk_and_one_that_is_known_does() {
    let (link, mut peer) = stranger();
    peer.write_all(&framed(frame::BODY, 1)).await.unwrap();
    assert!(matches!(link.closed().await, LinkError::Protocol(_)));
    assert_eq!(told(peer).await, Code::Protocol);

    let (link, mut peer) = stranger();
    link.trust();
    peer.write_all(&framed(frame::CONTROL, 2 * MAY_SEND)).await.unwrap();
    peer.write_all(&framed(frame::BODY, 5)).await.unwrap();
    let mut bytes = BytesMut::new();
    assert_eq!(link.accept_chunk().await.unwrap().read(&mut bytes, 100).await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn who_gives_the_control_stream_up_may_say_why() {
    let (link, peer) = stranger();
    drop(link.control().await.unwrap());
    link.close(Code::Unauthenticated, "the token is not known here");
    assert_eq!(told(peer).await, Code::Unauthenticated);

    // Without a word it is cut off: at once where nobody is left, else soon.
    let (link, peer) = stranger();
    let control = link.control().await.unwrap();
    drop(link);
    drop(control);
    assert_eq!(told(peer).await, Code::Cancelled);
    let (link, peer) = stranger();
    drop(link.control().await.unwrap());
    assert_eq!(told(peer).await, Code::Cancelled);
    assert_eq!(link.closed().await, LinkError::ClosedLocally);
}
