//! The client against a service that follows a script.
#![allow(clippy::unwrap_used)]

use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use metra_icap::{Client, IcapError, Outcome, Settings, Subject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const OPTIONS: &str = "ICAP/1.0 200 OK\r\nMethods: REQMOD\r\nPreview: 4\r\nAllow: 204\r\nMax-Connections: 2\r\nEncapsulated: null-body=0\r\n\r\n";
const CONTINUE: &str = "ICAP/1.0 100 Continue\r\n\r\n";
const CLEAN: &str = "ICAP/1.0 204 Unmodified\r\n\r\n";

/// Reads until `end` was seen; `None` when the connection ends.
async fn until(stream: &mut TcpStream, end: &[u8]) -> Option<Vec<u8>> {
    let mut data = Vec::new();
    while !data.ends_with(end) {
        data.push(stream.read_u8().await.ok()?);
    }
    Some(data)
}

/// What a service does with a question; it has read the preview.
#[derive(Clone, Copy)]
enum Does {
    /// Reads everything, and finds nothing.
    Clean,
    /// Answers to the preview, and closes.
    CleanOnce,
    /// Answers with a page while the body is still on its way, without reading it, and keeps the connection open.
    PageAtOnce,
    /// Says nothing.
    Nothing,
    /// Says in every answer that it has changed.
    Changes,
    /// Closes without a word, the second time it is asked on a connection.
    ClosesTheSecond,
}

struct Service {
    client: Client,
    connections: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    options: Arc<AtomicUsize>,
}

async fn service(does: Does) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("icap://{}/s", listener.local_addr().unwrap()).parse().unwrap();
    let (connections, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let options = Arc::new(AtomicUsize::new(0));
    let asked = options.clone();
    let (count, peak, now) = (connections.clone(), most.clone(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let (peak, now, options) = (peak.clone(), now.clone(), asked.clone());
            tokio::spawn(async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                serve(stream, does, &options).await;
                now.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    let settings = Settings {
        url,
        connect: Duration::from_secs(5),
        silence: Duration::from_millis(400),
        total: Duration::from_secs(20),
        connections: 3,
    };
    Service { client: Client::new(settings), connections, most, options }
}

async fn serve(mut stream: TcpStream, does: Does, options: &AtomicUsize) {
    let mut asked = 0;
    while let Some(head) = until(&mut stream, b"\r\n\r\n").await {
        if head.starts_with(b"OPTIONS") {
            options.fetch_add(1, Ordering::SeqCst);
            stream.write_all(OPTIONS.as_bytes()).await.unwrap();
            continue;
        }
        asked += 1;
        until(&mut stream, b"\r\n\r\n").await.unwrap();
        let preview = until(&mut stream, b"\r\n\r\n").await.unwrap();
        match does {
            Does::Nothing => std::future::pending().await,
            Does::ClosesTheSecond if asked == 2 => return,
            Does::CleanOnce => {
                stream.write_all(CLEAN.as_bytes()).await.unwrap();
                return;
            }
            Does::PageAtOnce => {
                stream.write_all(CONTINUE.as_bytes()).await.unwrap();
                let page = "HTTP/1.1 403 No\r\n\r\n";
                let head = format!(
                    "ICAP/1.0 200 OK\r\nX-Virus-ID: W\r\nEncapsulated: res-hdr=0, res-body={}\r\n\r\n{page}",
                    page.len()
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                std::future::pending().await
            }
            Does::Clean | Does::ClosesTheSecond | Does::Changes => {
                if !preview.ends_with(b"0; ieof\r\n\r\n") {
                    stream.write_all(CONTINUE.as_bytes()).await.unwrap();
                    until(&mut stream, b"\r\n0\r\n\r\n").await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                let tag = if matches!(does, Does::Changes) { "ISTag: \"new\"\r\n" } else { "" };
                let answer = CLEAN.replace("\r\n\r\n", &format!("\r\n{tag}\r\n"));
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    }
}

async fn scan(client: &Client, size: usize) -> Outcome {
    let subject = Subject { path: "a".into(), size: size as u64 };
    client.scan(&subject, &mut Cursor::new(vec![b'x'; size])).await
}

#[tokio::test]
async fn connections_are_kept() {
    let service = service(Does::Clean).await;
    for size in [3, 100_000, 0, 4, 5] {
        if size == 0 {
            continue;
        }
        assert!(matches!(scan(&service.client, size).await, Outcome::Clean), "{size}");
    }
    assert_eq!(service.connections.load(Ordering::SeqCst), 1);
    assert_eq!(service.client.options().await.unwrap().preview, Some(4));
}

#[tokio::test]
async fn rfc3507_4_7_another_istag_has_the_options_asked_for_again() {
    for (does, expected) in [(Does::Clean, 1), (Does::Changes, 3)] {
        let service = service(does).await;
        for _ in 0..3 {
            assert!(matches!(scan(&service.client, 9).await, Outcome::Clean));
        }
        assert_eq!(service.options.load(Ordering::SeqCst), expected);
    }
}

#[tokio::test]
async fn there_are_no_more_than_the_service_takes() {
    let service = service(Does::Clean).await;
    let scans = (0..12).map(|_| scan(&service.client, 9));
    let mut outcomes = Vec::new();
    for done in futures(scans).await {
        outcomes.push(done);
    }
    assert!(outcomes.iter().all(|o| matches!(o, Outcome::Clean)), "{outcomes:?}");
    assert_eq!(service.most.load(Ordering::SeqCst), 2);
}

/// All at once, on this task.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, done) in all.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(output) = future.as_mut().poll(cx) {
                *done = Some(output);
            }
        }
        if all.iter().all(|(_, done)| done.is_some()) {
            return std::task::Poll::Ready(());
        }
        std::task::Poll::Pending
    })
    .await;
    all.into_iter().filter_map(|(_, done)| done).collect()
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_no_failure() {
    let service = service(Does::ClosesTheSecond).await;
    for _ in 0..3 {
        assert!(matches!(scan(&service.client, 50_000).await, Outcome::Clean));
    }
    assert!(service.connections.load(Ordering::SeqCst) > 1);
}

#[tokio::test]
async fn an_answer_before_the_end_is_heard() {
    let service = service(Does::PageAtOnce).await;
    // More than sockets hold, so that whoever only writes would wait for ever.
    let outcome = scan(&service.client, 64 << 20).await;
    assert!(matches!(&outcome, Outcome::Blocked { what, .. } if what == "W"), "{outcome:?}");
    let once = self::service(Does::CleanOnce).await;
    for _ in 0..2 {
        assert!(matches!(scan(&once.client, 64 << 20).await, Outcome::Clean));
    }
}

#[tokio::test]
async fn silence_and_absence_fail() {
    let service = service(Does::Nothing).await;
    let outcome = scan(&service.client, 9).await;
    assert!(matches!(outcome, Outcome::Failed(IcapError::Timeout(_))), "{outcome:?}");
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings =
        Settings { url: format!("icap://{port}/s").parse().unwrap(), ..service.client.settings().clone() };
    let absent = Client::new(settings);
    let outcome = scan(&absent, 9).await;
    assert!(matches!(outcome, Outcome::Failed(IcapError::Connect(_))), "{outcome:?}");
    // The next one does not try again at once.
    let outcome = scan(&absent, 9).await;
    assert!(matches!(outcome, Outcome::Failed(IcapError::Down(_))), "{outcome:?}");
    // A file that is shorter than was said is nobody's answer.
    let clean = self::service(Does::Clean).await;
    let subject = Subject { path: "a".into(), size: 100 };
    let outcome = clean.client.scan(&subject, &mut Cursor::new(vec![b'x'; 50])).await;
    assert!(matches!(outcome, Outcome::Failed(IcapError::Content(_))), "{outcome:?}");
}
