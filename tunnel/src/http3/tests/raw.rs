//! A client that sends what it likes.

use metra_core::wire::varint;

use super::*;

pub(super) struct Raw {
    pub(super) connection: quinn::Connection,
    _control: quinn::SendStream,
}

impl Raw {
    /// Sends these settings.
    pub(super) async fn start(connection: &quinn::Connection, settings: &[(u64, u64)]) -> Self {
        let mut payload = Vec::new();
        for (id, value) in settings {
            varint::put(*id, &mut payload);
            varint::put(*value, &mut payload);
        }
        Self::with_control(connection, &frame(4, &payload)).await
    }

    pub(super) async fn with_control(connection: &quinn::Connection, bytes: &[u8]) -> Self {
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(&[&[0], bytes].concat()).await.unwrap();
        Self { connection: connection.clone(), _control: control }
    }

    /// Sends `bytes` on a stream; what comes back until its end.
    pub(super) async fn ask(&self, bytes: &[u8]) -> Result<Vec<u8>, quinn::ReadToEndError> {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let _ = send.finish();
        soon(recv.read_to_end(1 << 20)).await
    }

    /// Asks, and gives the code of the reset that comes back.
    pub(super) async fn reset(&self, bytes: &[u8]) -> u64 {
        match self.ask(bytes).await {
            Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => code.into_inner(),
            other => panic!("{other:?}"),
        }
    }

    /// The code with which the server closes the connection.
    pub(super) async fn closed(&self) -> u64 {
        closed(&self.connection).await
    }
}

pub(super) async fn closed(connection: &quinn::Connection) -> u64 {
    match soon(connection.closed()).await {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other:?}"),
    }
}

pub(super) fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint::put(kind, &mut out);
    varint::put(payload.len() as u64, &mut out);
    out.extend_from_slice(payload);
    out
}

/// A HEADERS frame; every field as a literal (RFC 9204 section 4.5.6).
pub(super) fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    fn integer(value: usize, prefix: u32, first: u8, out: &mut Vec<u8>) {
        let most = (1 << prefix) - 1;
        if value < most {
            return out.push(first | value as u8);
        }
        out.push(first | most as u8);
        let mut rest = value - most;
        while rest >= 128 {
            out.push(rest as u8 | 128);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    let mut section = vec![0, 0];
    for (name, value) in fields {
        integer(name.len(), 3, 0x20, &mut section);
        section.extend_from_slice(name.as_bytes());
        integer(value.len(), 7, 0, &mut section);
        section.extend_from_slice(value.as_bytes());
    }
    frame(1, &section)
}

pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/")];

pub(super) fn post(path: &'static str) -> Vec<(&'static str, &'static str)> {
    vec![(":method", "POST"), (":scheme", "https"), (":authority", "localhost"), (":path", path)]
}

pub(super) const CONNECT: [(&str, &str); 5] = [
    (":method", "CONNECT"),
    (":protocol", "connect-udp"),
    (":scheme", "https"),
    (":authority", "localhost"),
    (":path", "/udp"),
];
