//! Measures one link between two processes, each on one core: Gbit/s, and CPU-seconds per GB of either side.
//!
//! ```text
//! cargo run --release -p metra-transport --example loopback -- --rounds 5 --socket plain,coalesced
//! ```
//!
//! Variants given with commas are run in turns, and medians are printed. Needs Linux (`taskset`, `/proc`). With
//! `--namespaces a,b --address 10.9.0.2` the sender runs in network namespace a and the receiver in b, as root.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use metra_core::code::Code;
use metra_transport::quic::{AckFrequency, Congestion, QuicClient, QuicServer, Serves, SocketKind, Tuning};
use metra_transport::{ChunkRecv, Link, Rt};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Datagrams as on Ethernet. Bytes of UDP payload.
const ETHERNET: u64 = 1452;
/// Chunks under way at a time at the sender.
const LANES: usize = 16;

fn main() -> Result<()> {
    let mut options = Options(BTreeMap::new());
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        options.0.insert(name.trim_start_matches("--").to_owned(), value);
    }
    let runtime = || match options.text("threads", "1").parse::<usize>() {
        Ok(1) => tokio::runtime::Builder::new_current_thread().enable_all().build(),
        threads => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.unwrap_or(2))
            .enable_all()
            .build(),
    };
    match options.text("role", "") {
        "receive" => runtime()?.block_on(receive(&options)),
        "send" => runtime()?.block_on(send(&options)),
        _ => compare(&options),
    }
}

/// Command-line options by name.
struct Options(BTreeMap<String, String>);

impl Options {
    fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.0.get(name).map_or(default, String::as_str)
    }

    fn number(&self, name: &str, default: u64) -> Result<u64> {
        self.0.get(name).map_or(Ok(default), |text| Ok(text.parse()?))
    }

    fn tuning(&self) -> Result<Tuning> {
        let base = Tuning::default();
        let window = self.number("window", base.receive_window >> 20)? << 20;
        let mtu = self.number("mtu", ETHERNET)? as u16;
        let ack = self.number("ack", 31)? as u32;
        Ok(Tuning {
            socket: match self.text("socket", "coalesced") {
                "plain" => SocketKind::Plain,
                _ => SocketKind::Coalesced,
            },
            congestion: match self.text("congestion", "cubic") {
                "bbr" => Congestion::Bbr,
                _ => Congestion::Cubic,
            },
            // As on the network, unless said otherwise.
            mtu_upper_bound: mtu,
            mtu_upper_bound_loopback: mtu,
            receive_window: window,
            send_window: window,
            ack_frequency: (ack > 1)
                .then_some(AckFrequency { threshold: ack, max_delay: Duration::from_millis(5) }),
            ..base
        })
    }
}

/// Runs every combination of the options with commas, `--rounds` times in turns.
fn compare(options: &Options) -> Result<()> {
    let mut variants = vec![BTreeMap::new()];
    for (name, values) in &options.0 {
        if name == "namespaces" {
            continue;
        }
        variants = values
            .split(',')
            .flat_map(|value| {
                variants.iter().cloned().map(move |mut variant: BTreeMap<String, String>| {
                    variant.insert(name.clone(), value.to_owned());
                    variant
                })
            })
            .collect();
    }
    let mut results = vec![Vec::new(); variants.len()];
    for _ in 0..options.number("rounds", 3)? {
        for (variant, results) in variants.iter().zip(&mut results) {
            results.push(round(options, variant)?);
        }
    }
    for (variant, results) in variants.iter().zip(results) {
        let median = |field: usize| {
            let mut values: Vec<f64> = results.iter().map(|run: &[f64; 3]| run[field]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let text: Vec<String> = variant.iter().map(|(name, value)| format!("{name}={value}")).collect();
        println!(
            "{:6.2} Gbit/s  {:.3} / {:.3} CPU-s per GB (sender / receiver)  {}",
            median(0),
            median(1),
            median(2),
            text.join(" ")
        );
    }
    Ok(())
}

/// One transfer by two child processes: Gbit/s, CPU-s per GB of the sender and of the receiver.
fn round(options: &Options, variant: &BTreeMap<String, String>) -> Result<[f64; 3]> {
    let namespaces: Vec<&str> = options.text("namespaces", "").split(',').collect();
    let child = |role: &str, core: &str, namespace: Option<&&str>| -> Result<Command> {
        let mut command = match namespace {
            Some(name) if !name.is_empty() => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", name, "taskset"]);
                command
            }
            _ => Command::new("taskset"),
        };
        let cores = if options.text("threads", "1") == "1" { core } else { "0-63" };
        command.args(["-c", cores]).arg(std::env::current_exe()?).args(["--role", role]);
        for (name, value) in variant {
            command.args([format!("--{name}"), value.clone()]);
        }
        Ok(command)
    };
    let mut receiver = child("receive", "1", namespaces.get(1))?.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(receiver.stdout.take().ok_or("no output")?).lines();
    let address = lines.next().ok_or("the receiver ended")??;
    let certificate = lines.next().ok_or("the receiver ended")??;
    let sender = child("send", "0", namespaces.first())?
        .args(["--to", &address, "--certificate", &certificate])
        .output()?;
    let sent: Vec<f64> = String::from_utf8(sender.stdout)?
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>()?;
    let received: f64 = lines.next().ok_or("the receiver ended")??.parse()?;
    receiver.wait()?;
    match sent[..] {
        [rate, cpu] => Ok([rate, cpu, received]),
        _ => Err(format!("the sender failed: {}", String::from_utf8_lossy(&sender.stderr)).into()),
    }
}

async fn receive(options: &Options) -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider(options))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let address = format!("{}:0", options.text("address", "127.0.0.1")).parse()?;
    let rt = Rt::tokio();
    let server = QuicServer::bind(rt.clone(), address, Arc::new(tls), options.tuning()?, None, Serves::Mtp)?;
    println!("{}", server.local_addr()?);
    println!("{}", made.cert.der().iter().map(|byte| format!("{byte:02x}")).collect::<String>());

    let accepted = server.accept().await.ok_or("closed")?.accept().await?;
    let link = accepted.into_link().ok_or("not MTP")?;
    link.trust();
    let cpu = cpu_seconds()?;
    let (mut send, mut recv) = link.control().await?;
    let announced = recv.recv().await?.ok_or("no announcement")?;
    let chunks = u64::from_le_bytes(announced[..].try_into()?);
    let mut bytes = 0;
    let mut reading = tokio::task::JoinSet::new();
    // Buffers are used again, as a real sink does: fresh memory would be measured otherwise.
    let mut buffers = Vec::new();
    for _ in 0..chunks {
        let chunk = link.accept_chunk().await?;
        reading.spawn(read(chunk, buffers.pop().unwrap_or_default()));
        while let Some(done) = reading.try_join_next() {
            let buffer = done??;
            bytes += buffer.len();
            buffers.push(buffer);
        }
    }
    while let Some(done) = reading.join_next().await {
        bytes += done??.len();
    }
    send.send("done".into()).await?;
    println!("{}", (cpu_seconds()? - cpu) / bytes as f64 * 1e9);
    link.closed().await;
    Ok(())
}

async fn read(
    mut chunk: Box<dyn ChunkRecv>,
    mut buffer: BytesMut,
) -> std::result::Result<BytesMut, metra_transport::LinkError> {
    buffer.clear();
    buffer.reserve((1 << 20) + 64);
    while chunk.read(&mut buffer, 1 << 20).await? > 0 {}
    Ok(buffer)
}

async fn send(options: &Options) -> Result<()> {
    let hex = options.text("certificate", "");
    let der: Vec<u8> = (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16))
        .collect::<std::result::Result<_, _>>()?;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(der))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider(options))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let rt = Rt::tokio();
    let client = QuicClient::new(rt.clone(), "0.0.0.0:0".parse()?, Arc::new(tls), options.tuning()?)?;
    let link = client.connect(options.text("to", "").parse()?, "localhost").await?;
    // Path MTU discovery takes a few round trips.
    rt.sleep(Duration::from_millis(100)).await;

    let chunks = options.number("megabytes", 3000)?;
    let (cpu, start) = (cpu_seconds()?, Instant::now());
    let (mut to, mut from) = link.control().await?;
    to.send(Bytes::copy_from_slice(&chunks.to_le_bytes())).await?;
    let data = Bytes::from(vec![0x5a; 1_000_000]);
    let mut lanes = Vec::new();
    for lane in 0..LANES as u64 {
        lanes.push(rt.spawn(push(
            link.clone(),
            data.clone(),
            (chunks + LANES as u64 - 1 - lane) / LANES as u64,
        )));
    }
    for lane in lanes {
        lane.await??;
    }
    from.recv().await?.ok_or("no confirmation")?;
    let (cpu, elapsed) = (cpu_seconds()? - cpu, start.elapsed());
    let bytes = chunks as f64 * data.len() as f64;
    println!("{} {}", bytes * 8.0 / 1e9 / elapsed.as_secs_f64(), cpu / bytes * 1e9);
    if options.text("verbose", "") == "yes" {
        eprintln!("{:?}", link.stats());
    }
    link.close(Code::Ok, "");
    client.wait_idle().await;
    Ok(())
}

async fn push(
    link: Arc<dyn Link>,
    data: Bytes,
    chunks: u64,
) -> std::result::Result<(), metra_transport::LinkError> {
    for _ in 0..chunks {
        link.send_chunk(Bytes::from_static(b"header"), vec![data.clone()], 0).await?;
    }
    Ok(())
}

fn provider(options: &Options) -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if options.text("cipher", "") == "aes128" {
        provider.cipher_suites.retain(|suite| suite.suite() == rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
    }
    Arc::new(provider)
}

/// Of this process, user and system.
fn cpu_seconds() -> Result<f64> {
    let mut total = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let schedstat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        total += schedstat.split_whitespace().next().ok_or("schedstat is empty")?.parse::<f64>()? / 1e9;
    }
    Ok(total)
}
