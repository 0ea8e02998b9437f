//! A server that answers, and a client that tells whether it does: `PROBE=serve PORT` and `PROBE=tcp|udp ADDRESS`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::Duration;

/// The environment variable that makes a probe of this program.
pub(crate) const PROBE: &str = "NETPATH_TEST_PROBE";

/// Does what is asked, if something is.
pub(crate) fn main() -> Option<ExitCode> {
    let asked = std::env::var(PROBE).ok()?;
    let (what, place) = asked.split_once(' ').unwrap();
    match what {
        "serve" => serve(place),
        "tcp" => Some(code(tcp(place.parse().unwrap()))),
        "udp" => Some(code(udp(place.parse().unwrap()))),
        _ => panic!("{asked}"),
    }
}

fn code(done: std::io::Result<()>) -> ExitCode {
    done.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn serve(port: &str) -> ! {
    let socket = UdpSocket::bind(format!("0.0.0.0:{port}")).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&buffer[..len], from).unwrap();
        }
    });
    for stream in TcpListener::bind(format!("0.0.0.0:{port}")).unwrap().incoming() {
        // A client that is gone is not missed.
        let _ = stream.unwrap().write_all(b"x");
    }
    unreachable!()
}

fn tcp(place: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&place, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.read_exact(&mut [0])
}

fn udp(place: SocketAddr) -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(place)?;
    socket.set_read_timeout(Some(PATIENCE / 5))?;
    // A full machine may be slow to answer, but not five times.
    let answered = (0..5).any(|_| socket.send(b"x").is_ok() && socket.recv(&mut [0; 100]).is_ok());
    if answered { Ok(()) } else { Err(std::io::ErrorKind::TimedOut.into()) }
}

/// How long nothing must come before the way counts as closed.
const PATIENCE: Duration = Duration::from_millis(1500);
