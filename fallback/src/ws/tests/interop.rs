//! Against another implementation: tungstenite, over HTTP/1.1.

use std::future::pending;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::serve;
use crate::http::Limits;
use crate::ws::connect;

#[tokio::test(start_paused = true)]
async fn their_client_with_this_server() {
    let (a, b) = duplex(100_000);
    let (mut servers, _served) = serve(b, false, Limits::default(), pending());
    let mut request = "wss://gateway.example/mtp?x=1".into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mtp.1"));
    let (theirs, _) = tokio_tungstenite::client_async(request, a).await.unwrap();
    let mut ours = servers.recv().await.unwrap();

    let echo = tokio::spawn(async move {
        let mut buf = vec![0; 70_000];
        loop {
            match ours.read(&mut buf).await.unwrap() {
                0 => break,
                n => ours.write_all(&buf[..n]).await.unwrap(),
            }
            ours.flush().await.unwrap();
        }
        ours.shutdown().await.unwrap();
    });
    let (mut send, mut receive) = theirs.split();
    send.send(Message::Ping("are you there".into())).await.unwrap();
    let mut pongs = 0;
    for len in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
        let mut back = Vec::new();
        let sent = send.send(Message::Binary(vec![len as u8; len].into()));
        let received = async {
            while back.len() < len {
                match receive.next().await.unwrap().unwrap() {
                    Message::Binary(data) => back.extend_from_slice(&data),
                    Message::Pong(data) => pongs += usize::from(&data[..] == b"are you there"),
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(async { sent.await.unwrap() }, received);
        assert!(back.iter().all(|byte| *byte == len as u8));
    }
    assert_eq!(pongs, 1);
    send.send(Message::Close(None)).await.unwrap();
    while let Some(message) = receive.next().await {
        assert!(message.unwrap().is_close());
    }
    echo.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn this_client_with_their_server() {
    let (a, b) = duplex(100_000);
    let echo = tokio::spawn(async move {
        #[allow(clippy::result_large_err)]
        let subprotocol = |_: &Request, mut response: Response| {
            response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mtp.1"));
            Ok(response)
        };
        let mut theirs = tokio_tungstenite::accept_hdr_async(b, subprotocol).await.unwrap();
        theirs.send(Message::Ping("x".into())).await.unwrap();
        let mut pongs = 0;
        while let Some(message) = theirs.next().await {
            match message.unwrap() {
                message @ Message::Binary(_) => theirs.send(message).await.unwrap(),
                Message::Pong(data) => pongs += usize::from(&data[..] == b"x"),
                other => assert!(other.is_close()),
            }
        }
        assert_eq!(pongs, 1);
    });
    let ours = connect(Box::new(a), false, "gateway.example", "/mtp").await.unwrap();
    let (mut read, mut write) = tokio::io::split(ours);
    let sent: Vec<u8> = (0..3_000_000).map(|i| (i / 7) as u8).collect();
    let mut got = vec![0; sent.len()];
    tokio::join!(
        async {
            write.write_all(&sent).await.unwrap();
            write.flush().await.unwrap();
        },
        async { assert_eq!(read.read_exact(&mut got).await.unwrap(), sent.len()) }
    );
    assert!(got == sent);
    write.shutdown().await.unwrap();
    assert_eq!(read.read(&mut [0]).await.unwrap(), 0);
    drop((read, write));
    echo.await.unwrap();
}
