#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use metra_certs::{DevCa, server_config};
use metra_fallback::BoxStream;
use metra_fallback::tls::TlsServer;
use metra_policy::audit::{Action, Event, Record, Resource, Verdict, Way};
use metra_transport::Rt;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::file::LogFile;
use super::sink::{BATCH, Batch, Item, Line, QUEUE, Sink};
use super::syslog::{self, frame_of};
use super::{Audit, UNWRITABLE};
use crate::config::{self, AuditFile, AuditFormat, AuditSyslog, OnFailure};

const PATIENCE: Duration = Duration::from_secs(20);

fn file_in(dir: &TempDir) -> AuditFile {
    AuditFile {
        path: dir.path().join("audit.log"),
        format: AuditFormat::Json,
        max_size: 1 << 20,
        max_age: None,
        keep: 100,
        sync: Duration::ZERO,
    }
}

fn to_file(file: AuditFile, on_failure: OnFailure) -> config::Audit {
    config::Audit { on_failure, file: Some(file), syslog: None }
}

fn record(path: &str) -> Record {
    Record {
        resource: Resource::Path(path.to_owned()),
        ..Record::new(1, Event::TransferEnd, Action::Push, Way::Quic, "192.0.2.1:5".parse().unwrap())
    }
}

fn line(text: &str) -> Line {
    Line { text: text.into(), time: 1_767_225_600_123, severity: 6 }
}

fn lines(texts: &[&str]) -> Vec<Line> {
    texts.iter().map(|text| line(text)).collect()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000 + seconds)
}

fn append(file: &mut LogFile, texts: &[&str], now: SystemTime) {
    let mut lines = lines(texts);
    file.append(&mut lines, now).unwrap();
    assert!(lines.is_empty());
}

/// What the renamed files hold, the oldest first, then what the file holds.
fn all(path: &Path) -> (usize, String) {
    let mut files: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort_by_key(|file| (file == path, file.clone()));
    (files.len(), files.iter().map(|file| fs::read_to_string(file).unwrap()).collect())
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[test]
fn a_file_is_the_gateways_alone_and_is_appended_to() {
    let dir = tempfile::tempdir().unwrap();
    let config = file_in(&dir);
    let mut file = LogFile::open(config.clone(), at(0)).unwrap();
    append(&mut file, &["a", "b"], at(0));
    assert_eq!(fs::metadata(&config.path).unwrap().permissions().mode() & 0o777, 0o600);
    // Another gateway.
    let error = LogFile::open(config.clone(), at(0)).err().unwrap();
    assert_eq!(error.to_string(), "another process writes it");
    drop(file);
    append(&mut LogFile::open(config.clone(), at(0)).unwrap(), &["c"], at(0));
    assert_eq!(fs::read_to_string(config.path).unwrap(), "a\nb\nc\n");
}

#[test]
fn a_torn_line_does_not_swallow_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let config = file_in(&dir);
    fs::write(&config.path, "whole\n{\"to").unwrap();
    append(&mut LogFile::open(config.clone(), at(0)).unwrap(), &["next"], at(0));
    assert_eq!(fs::read_to_string(config.path).unwrap(), "whole\n{\"to\nnext\n");
}

#[test]
fn what_cannot_be_written_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let config = file_in(&dir);
    std::os::unix::fs::symlink("/dev/full", &config.path).unwrap();
    let mut file = LogFile::open(config.clone(), at(0)).unwrap();
    let mut waiting = lines(&["a", "b"]);
    for _ in 0..2 {
        file.append(&mut waiting, at(0)).unwrap_err();
        assert_eq!(waiting, lines(&["a", "b"]));
    }
    // Something is in the way.
    fs::remove_file(&config.path).unwrap();
    fs::create_dir(&config.path).unwrap();
    file.append(&mut waiting, at(0)).unwrap_err();
    fs::remove_dir(&config.path).unwrap();
    file.append(&mut waiting, at(0)).unwrap();
    assert_eq!(fs::read_to_string(config.path).unwrap(), "a\nb\n");
}

#[test]
fn rotation_by_size_loses_nothing_and_tears_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = AuditFile { max_size: 64, ..file_in(&dir) };
    let mut file = LogFile::open(config.clone(), at(0)).unwrap();
    let texts: Vec<String> = (0..200).map(|n| format!("record {n}")).collect();
    for (n, text) in texts.iter().enumerate() {
        append(&mut file, &[text], at(0));
        if n % 50 == 49 {
            // A restart between.
            drop(file);
            file = LogFile::open(config.clone(), at(0)).unwrap();
        }
    }
    let (files, content) = all(&config.path);
    assert_eq!(content.lines().collect::<Vec<_>>(), texts);
    // At most 64 bytes each, the same instant notwithstanding.
    assert!((content.len() / 64..100).contains(&files), "{files}");
    for entry in fs::read_dir(dir.path()).unwrap() {
        let meta = entry.unwrap().metadata().unwrap();
        assert!(meta.len() <= 64 && meta.permissions().mode() & 0o777 == 0o600);
    }
}

#[test]
fn rotation_by_age_keeps_so_many() {
    let dir = tempfile::tempdir().unwrap();
    let hour = Duration::from_secs(3600);
    let config = AuditFile { max_age: Some(hour), keep: 2, ..file_in(&dir) };
    // Neither is one of ours.
    fs::write(dir.path().join("audit.log.gz"), "").unwrap();
    fs::write(dir.path().join("other"), "").unwrap();
    let mut file = LogFile::open(config.clone(), at(0)).unwrap();
    append(&mut file, &["first"], at(0));
    append(&mut file, &["second"], at(3599));
    assert_eq!(all(&config.path).0, 3);
    for n in 1..=5 {
        append(&mut file, &[&format!("hour {n}")], at(n * 3600));
    }
    let (files, content) = all(&config.path);
    assert_eq!((files, content.as_str()), (2 + 3, "hour 3\nhour 4\nhour 5\n"));
    // A clock that goes back.
    append(&mut file, &["again"], at(0));
    assert_eq!(all(&config.path).0, files);
}

#[test]
fn a_rotation_that_fails_keeps_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    let config = AuditFile { path: folder.join("audit.log"), max_size: 4, ..file_in(&dir) };
    let mut file = LogFile::open(config.clone(), at(0)).unwrap();
    append(&mut file, &["a"], at(0));
    // Its name is gone, so it cannot be renamed.
    fs::rename(&config.path, folder.join("moved")).unwrap();
    append(&mut file, &["bcd"], at(1));
    assert_eq!(fs::read_to_string(folder.join("moved")).unwrap(), "a\nbcd\n");
    // Tried again a minute later.
    fs::rename(folder.join("moved"), &config.path).unwrap();
    append(&mut file, &["e"], at(2));
    assert_eq!(all(&config.path).0, 1);
    append(&mut file, &["f"], at(70));
    assert_eq!(all(&config.path), (2, "a\nbcd\ne\nf\n".to_owned()));
}

#[test]
fn a_queue_is_bounded_and_refusals_have_half_of_it() {
    let (sink, mut queue, _) = Sink::new("file", AuditFormat::Json);
    for _ in 0..2 * QUEUE {
        sink.push(line("refused"), true);
    }
    assert_eq!(queue.len(), QUEUE / 2);
    assert!(!sink.is_failing());
    for _ in 0..2 * QUEUE {
        sink.push(line("end"), false);
    }
    assert_eq!(queue.len(), QUEUE);
    assert!(sink.is_failing(), "there is no room for what is new");
    let mut batch = Batch::default();
    let first = queue.try_recv().unwrap();
    batch.take(first, &mut queue);
    assert_eq!((batch.lines.len(), queue.len()), (BATCH, QUEUE - BATCH));
    // What waits is answered for what is before it only.
    let (done, mut written) = tokio::sync::oneshot::channel();
    batch.lines.clear();
    batch.take(Item::Flush(done), &mut queue);
    assert!(batch.lines.is_empty() && written.try_recv().is_err());
    batch.answer();
    written.try_recv().unwrap();
}

#[test]
fn messages_are_those_of_rfc_5424_and_5425() {
    let message = "<110>1 2026-01-01T00:00:00.123Z host metra 7 audit - {\"a\":\"é\"}";
    let frame = frame_of(&line("{\"a\":\"é\"}"), "host metra 7 audit -");
    assert_eq!(frame, format!("{} {message}", message.len()));
    assert!(frame.starts_with("63 ") && frame.chars().count() == 65, "octets, not characters: {frame}");
}

#[tokio::test]
async fn records_are_numbered_and_all_there_once_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let config = AuditFile { sync: Duration::from_secs(3600), ..file_in(&dir) };
    let audit = Audit::start(&Rt::tokio(), &to_file(config.clone(), OnFailure::Refuse)).unwrap();
    for n in 0..1000 {
        audit.record(record(&format!("path\n{n}")));
    }
    audit.flush(PATIENCE).await;
    let text = fs::read_to_string(config.path).unwrap();
    assert_eq!(text.lines().count(), 1000);
    for (n, line) in text.lines().enumerate() {
        assert!(
            line.contains(&format!("\"path\\n{n}\"")) && line.contains(&format!("\"sequence\":{n}}}")),
            "{line}"
        );
    }
    audit.gate().unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_or_not_and_what_waits_is_written_later() {
    for on_failure in [OnFailure::Refuse, OnFailure::Continue] {
        let dir = tempfile::tempdir().unwrap();
        let config = file_in(&dir);
        std::os::unix::fs::symlink("/dev/full", &config.path).unwrap();
        let audit = Audit::start(&Rt::tokio(), &to_file(config.clone(), on_failure)).unwrap();
        audit.gate().unwrap();
        audit.record(record("while it is full"));
        until("it is noticed", || audit.0.sinks[0].is_failing()).await;
        match on_failure {
            OnFailure::Refuse => {
                let refused = audit.gate().unwrap_err();
                assert_eq!((refused.code.name(), refused.reason.as_str()), ("busy", UNWRITABLE));
            }
            OnFailure::Continue => audit.gate().unwrap(),
        }
        audit.record(Record { verdict: Some(Verdict::Refused), ..record("refused") });
        fs::remove_file(&config.path).unwrap();
        audit.flush(PATIENCE).await;
        audit.gate().unwrap();
        let text = fs::read_to_string(config.path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_is_an_error_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let config = AuditFile { path: dir.path().to_owned(), ..file_in(&dir) };
    let error = Audit::start(&Rt::tokio(), &to_file(config, OnFailure::Continue)).err().unwrap();
    assert!(error.to_string().starts_with(&dir.path().display().to_string()), "{error}");
}

/// A syslog server of the development authority in `dir`.
struct Server {
    tcp: TcpListener,
    tls: TlsServer,
}

impl Server {
    async fn new(dir: &TempDir, at: SocketAddr) -> Self {
        let identity = DevCa::load_or_create(dir.path()).unwrap().server_identity(&[]).unwrap();
        let tls = TlsServer::new(&server_config(&identity, None).unwrap(), true);
        Self { tcp: TcpListener::bind(at).await.unwrap(), tls }
    }

    fn config(&self, dir: &TempDir) -> AuditSyslog {
        let at = self.tcp.local_addr().unwrap();
        AuditSyslog {
            host: at.ip().to_string(),
            port: at.port(),
            format: AuditFormat::Cef,
            ca: Some(dir.path().join(DevCa::CERT_FILE)),
            identity: None,
        }
    }

    async fn accept(&self) -> BoxStream {
        let accepted = async { self.tls.accept(self.tcp.accept().await.unwrap().0).await.unwrap().stream };
        tokio::time::timeout(PATIENCE, accepted).await.unwrap()
    }
}

/// The next message, by its length.
async fn message(stream: &mut BoxStream) -> String {
    let reading = async {
        let mut length = 0;
        loop {
            match stream.read_u8().await.unwrap() {
                b' ' => break,
                digit => length = length * 10 + usize::from(digit - b'0'),
            }
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.unwrap();
        String::from_utf8(bytes).unwrap()
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap()
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

#[tokio::test]
async fn syslog_over_tls_and_a_file_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(&dir, ANY).await;
    let config = config::Audit {
        on_failure: OnFailure::Refuse,
        file: Some(file_in(&dir)),
        syslog: Some(server.config(&dir)),
    };
    let audit = Audit::start(&Rt::tokio(), &config).unwrap();
    let mut stream = server.accept().await;
    audit.record(record("a|b\n=c"));
    audit.record(Record { code: "denied", ..record("d") });
    for (priority, path) in [(110, "filePath=a|b\\n\\=c"), (108, "filePath=d")] {
        let message = message(&mut stream).await;
        let parts: Vec<&str> = message.splitn(8, ' ').collect();
        assert_eq!((parts[0], parts[1]), (&*format!("<{priority}>1"), "1970-01-01T00:00:00.001Z"));
        assert_eq!((parts[3], parts[5], parts[6]), ("metra", "audit", "-"));
        assert!(parts[7].starts_with("CEF:0|Metra|") && parts[7].contains(path), "{message}");
    }
    audit.flush(PATIENCE).await;
    assert_eq!(fs::read_to_string(dir.path().join("audit.log")).unwrap().matches("\"time\":1,").count(), 2);
    // It goes, and comes back.
    drop(stream);
    let mut stream = server.accept().await;
    audit.record(record("after"));
    assert!(message(&mut stream).await.contains("filePath=after"));
}

#[tokio::test]
async fn a_syslog_server_that_is_away_refuses_what_is_new_until_it_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(&dir, ANY).await;
    let syslog = server.config(&dir);
    let at = server.tcp.local_addr().unwrap();
    drop(server);
    let config = config::Audit { on_failure: OnFailure::Refuse, file: None, syslog: Some(syslog) };
    let audit = Audit::start(&Rt::tokio(), &config).unwrap();
    until("it is noticed", || audit.gate().is_err()).await;
    for n in 0..2 * QUEUE {
        audit.record(record(&format!("record-{n}.")));
    }
    let server = Server::new(&dir, at).await;
    let mut stream = server.accept().await;
    for n in 0..QUEUE {
        assert!(message(&mut stream).await.contains(&format!("record-{n}.")));
    }
    until("it works again", || audit.gate().is_ok()).await;
}

#[tokio::test]
async fn a_server_that_is_not_known_gets_nothing() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::new(&dir, ANY).await;
    DevCa::load_or_create(other.path()).unwrap();
    let config =
        config::Audit { on_failure: OnFailure::Refuse, file: None, syslog: Some(server.config(&other)) };
    let audit = Audit::start(&Rt::tokio(), &config).unwrap();
    audit.record(record("secret"));
    let tcp = server.tcp.accept().await.unwrap().0;
    assert!(server.tls.accept(tcp).await.is_err());
    until("it is noticed", || audit.gate().is_err()).await;
    let config = server.config(&other);
    let client = syslog::Server::new(&config).unwrap();
    let accept = async { server.tls.accept(server.tcp.accept().await.unwrap().0).await.is_err() };
    let (error, refused) = futures_util::future::join(client.connect(&Rt::tokio()), accept).await;
    let error = error.err().unwrap().to_string();
    assert!(refused && error.contains("audit.syslog.ca"), "{error}");
}
