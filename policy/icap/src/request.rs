//! The heads of requests.

use std::fmt::Write;

use crate::ServiceUrl;

/// The file that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its path, `/` between the names: what a service sees as the path of a URL.
    pub path: String,
    /// Bytes.
    pub size: u64,
}

const AGENT: &str = concat!("Metra/", env!("CARGO_PKG_VERSION"));

/// A request for the options of a service (RFC 3507 section 4.10).
pub(crate) fn options(service: &ServiceUrl) -> Vec<u8> {
    let host = service.authority();
    format!(
        "OPTIONS {service} ICAP/1.0\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nEncapsulated: null-body=0\r\n\r\n"
    )
    .into_bytes()
}

/// The head of a request about a file, with the encapsulated HTTP head (RFC 3507 sections 4.3, 4.4.1, 4.8).
pub(crate) fn reqmod(service: &ServiceUrl, subject: &Subject, preview: Option<usize>) -> Vec<u8> {
    let (path, size) = (escaped(&subject.path), subject.size);
    let http = format!(
        "PUT http://metra/{path} HTTP/1.1\r\nHost: metra\r\nContent-Type: application/octet-stream\r\nContent-Length: {size}\r\n\r\n"
    );
    let host = service.authority();
    let mut head =
        format!("REQMOD {service} ICAP/1.0\r\nHost: {host}\r\nUser-Agent: {AGENT}\r\nAllow: 204\r\n");
    let body = match size {
        0 => "null-body",
        _ => {
            if let Some(preview) = preview {
                let _ = write!(head, "Preview: {preview}\r\n");
            }
            "req-body"
        }
    };
    let _ = write!(head, "Encapsulated: req-hdr=0, {body}={}\r\n\r\n{http}", http.len());
    head.into_bytes()
}

/// A path as it stands in a URL: whatever a name has in it, it adds no line and no header.
fn escaped(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
