//! A content scanner of the tests' own, for what no real one can be made to do when a test wants it.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// A service that can be told to say nothing, and that passes on something else for what has `CHANGE` in it.
pub(crate) struct Service {
    address: SocketAddr,
    /// Whether it says nothing of what it is asked.
    pub(crate) hangs: Arc<AtomicBool>,
    /// How many files it was asked about.
    pub(crate) asked: Arc<AtomicUsize>,
}

impl Service {
    /// Starts it; it hangs at first.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (hangs, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let service =
            Self { address: listener.local_addr().unwrap(), hangs: hangs.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (hangs, asked) = (hangs.clone(), asked.clone());
                std::thread::spawn(move || serve(stream, &hangs, &asked));
            }
        });
        service
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("icap://{}/s", self.address)
    }
}

/// Answers until the connection ends: without a preview, everything is clean once the whole file is there.
fn serve(mut stream: TcpStream, hangs: &AtomicBool, asked: &AtomicUsize) -> Option<()> {
    let mut from = BufReader::new(stream.try_clone().ok()?);
    let mut data = Vec::new();
    let mut until = |data: &mut Vec<u8>, end: &[u8]| {
        data.clear();
        while !data.ends_with(end) {
            let byte = (&mut from).bytes().next()?.ok()?;
            data.push(byte);
        }
        Some(data.starts_with(b"OPTIONS"))
    };
    loop {
        if until(&mut data, b"\r\n\r\n")? {
            stream
                .write_all(
                    b"ICAP/1.0 200 OK\r\nMethods: REQMOD\r\nAllow: 204\r\nEncapsulated: null-body=0\r\n\r\n",
                )
                .ok()?;
            continue;
        }
        until(&mut data, b"\r\n0\r\n\r\n")?;
        asked.fetch_add(1, Ordering::SeqCst);
        while hangs.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let answer: &[u8] = match data.windows(6).any(|six| six == b"CHANGE") {
            true => b"ICAP/1.0 200 OK\r\nEncapsulated: req-hdr=0, null-body=18\r\n\r\nPUT / HTTP/1.1\r\n\r\n",
            false => b"ICAP/1.0 204 Unmodified\r\n\r\n",
        };
        stream.write_all(answer).ok()?;
    }
}
