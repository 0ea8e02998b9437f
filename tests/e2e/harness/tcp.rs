//! Connections over TCP to a gateway, as anybody may open them: bare, with TLS, with any protocol in it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use metra_certs::{TrustAnchors, client_config};
use metra_core::code::Code;
use metra_core::wire::Frame;
use metra_core::wire::stream::{self, StreamFrame};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use super::Gateway;

/// Longer than anything that a gateway lets last in these tests.
const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to the gateway.
pub(crate) fn tcp(gateway: &Gateway) -> TcpStream {
    tcp_from(gateway.address(), Ipv4Addr::LOCALHOST).unwrap()
}

/// The same, from another address of this machine.
pub(crate) fn tcp_from(to: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    socket.connect(&to.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Opens TLS connections with one protocol name.
#[derive(Clone)]
pub(crate) struct Tls(Arc<ClientConfig>);

/// A TLS connection.
pub(crate) type TlsStream = StreamOwned<ClientConnection, TcpStream>;

impl Tls {
    /// For `gateway`; `protocol` may be empty.
    pub(crate) fn new(gateway: &Gateway, protocol: &str) -> Self {
        let config = client_config(&TrustAnchors::new().ca_file(gateway.ca()), None).unwrap();
        let mut config = ClientConfig::clone(&config);
        config.alpn_protocols = if protocol.is_empty() { vec![] } else { vec![protocol.into()] };
        config.enable_early_data = false;
        Self(Arc::new(config))
    }

    fn connection(&self) -> ClientConnection {
        ClientConnection::new(self.0.clone(), ServerName::try_from("127.0.0.1").unwrap()).unwrap()
    }

    /// The first bytes of a handshake.
    pub(crate) fn hello(&self) -> Vec<u8> {
        let mut hello = Vec::new();
        self.connection().write_tls(&mut hello).unwrap();
        hello
    }

    /// The handshake.
    pub(crate) fn over(&self, mut tcp: TcpStream) -> io::Result<TlsStream> {
        let mut connection = self.connection();
        while connection.is_handshaking() || connection.wants_write() {
            connection.complete_io(&mut tcp)?;
        }
        Ok(StreamOwned::new(connection, tcp))
    }
}

/// A connection with TLS and this protocol in it.
pub(crate) fn tls(gateway: &Gateway, protocol: &str) -> TlsStream {
    Tls::new(gateway, protocol).over(tcp(gateway)).unwrap()
}

/// What came until the connection was ended by the other side, and how long that took.
pub(crate) fn ending(stream: &mut impl Read) -> (Vec<u8>, Duration) {
    let (mut all, mut piece) = (Vec::new(), vec![0; 64 * 1024]);
    let began = Instant::now();
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return (all, began.elapsed()),
            Ok(n) => all.extend_from_slice(&piece[..n]),
            Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => {
                panic!("the connection was not ended within {PATIENCE:?}");
            }
            // Reset, or cut off without a word: what the other side does not have to be polite about.
            Err(_) => return (all, began.elapsed()),
        }
    }
}

/// Writes a byte of `bytes` every `pause`, until all are written or the connection is ended; how long that took.
pub(crate) fn drip(stream: &mut impl Write, bytes: &[u8], pause: Duration) -> Duration {
    let began = Instant::now();
    for byte in bytes {
        if stream.write_all(&[*byte]).and_then(|()| stream.flush()).is_err() {
            break;
        }
        std::thread::sleep(pause);
    }
    began.elapsed()
}

/// Bytes of the control stream as a link frame.
pub(crate) fn control(bytes: &[u8]) -> Vec<u8> {
    let mut framed = Vec::new();
    stream::put_head(stream::CONTROL, bytes.len(), &mut framed);
    framed.extend_from_slice(bytes);
    framed
}

/// A frame as a link frame.
pub(crate) fn framed(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes);
    control(&bytes)
}

/// The code of the link frame close among what the gateway has sent.
pub(crate) fn closing(mut bytes: &[u8]) -> Option<Code> {
    while let Some((kind, len)) = stream::head(&mut bytes).expect("link frames of the gateway parse") {
        let (payload, rest) = bytes.split_at_checked(len)?;
        if let Ok(StreamFrame::Close(code, _)) = StreamFrame::decode(kind, payload) {
            return Some(code);
        }
        bytes = rest;
    }
    None
}
