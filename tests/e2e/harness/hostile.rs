//! A gateway that speaks MTP by the frame, and need not keep to the protocol.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use metra_certs::{DevCa, server_config};
use metra_core::code::Code;
use metra_core::id::{ChunkIndex, Incarnation, JobId, SessionId};
use metra_core::wire::{ChunkHeader, Frame, FrameDecoder, ManifestEnd, PeerLimits, Welcome};
use metra_transport::quic::{Accepted, QuicServer, Serves, Tuning};
use metra_transport::{ControlRecv, ControlSend, Link, Rt};
use tokio::runtime::Runtime;

use super::Bed;
use super::raw::Manifest;
use super::run::Run;

/// How it answers a `Pull`.
pub(crate) enum Behaviour {
    /// With this manifest; `serve` gives the bytes of a chunk, and may lie. The closing frame can be changed.
    Serves { manifest: Manifest, serve: fn(&Manifest, u32) -> Vec<u8>, end: fn(ManifestEnd) -> ManifestEnd },
    /// With these bytes on the control stream.
    Says(Vec<u8>),
}

/// A gateway on loopback, for as long as this lives.
pub(crate) struct Hostile {
    address: SocketAddr,
    ca: PathBuf,
    _runtime: Runtime,
}

impl Hostile {
    pub(crate) fn start(bed: &Bed, behaviour: Behaviour) -> Self {
        let state = bed.path("hostile-state");
        let identity = DevCa::load_or_create(&state).unwrap().server_identity(&[]).unwrap();
        let tls = server_config(&identity, None).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let server = runtime.block_on(async move {
            QuicServer::bind(
                Rt::tokio(),
                "127.0.0.1:0".parse().unwrap(),
                tls,
                Tuning::default(),
                None,
                Serves::Mtp,
            )
            .unwrap()
        });
        let address = server.local_addr().unwrap();
        let behaviour = Arc::new(behaviour);
        runtime.spawn(async move {
            while let Some(incoming) = server.accept().await {
                let behaviour = behaviour.clone();
                tokio::spawn(async move {
                    let Ok(Accepted::Link(link)) = incoming.accept().await else { return };
                    if let Some(peer) = Peer::meet(link).await {
                        // `None`: the client has hung up, as it may.
                        let _ = peer.treat(&behaviour).await;
                    }
                });
            }
        });
        Self { address, ca: state.join(DevCa::CERT_FILE), _runtime: runtime }
    }

    /// `metra get` of everything it has, to `back` in the bed.
    pub(crate) fn get(&self, bed: &Bed) -> Run {
        let run = bed.metra(["get", "--json", "--timeout", "3", "--ca"]).arg(&self.ca);
        run.arg(format!("mtp://{}/t", self.address)).arg(bed.path("back"))
    }
}

/// A client that has been welcomed.
struct Peer {
    link: Arc<dyn Link>,
    send: Box<dyn ControlSend>,
    recv: Box<dyn ControlRecv>,
    decoder: FrameDecoder,
}

impl Peer {
    async fn meet(link: Arc<dyn Link>) -> Option<Self> {
        let (send, recv) = link.control().await.ok()?;
        let mut peer = Self { link, send, recv, decoder: FrameDecoder::new() };
        let Some(Frame::Hello(_)) = peer.next().await else { return None };
        peer.say(&Frame::Welcome(Welcome {
            version: 1,
            session: SessionId([7; 16]),
            ticket: vec![1],
            ticket_lifetime: 60,
            user: "anybody".into(),
            receipt_key: [0; 32],
            limits: PeerLimits { jobs: 16, entries: 4_000_000, chunks: 4_000_000 },
        }))
        .await?;
        Some(peer)
    }

    async fn treat(mut self, behaviour: &Behaviour) -> Option<()> {
        loop {
            let Frame::Pull(pull) = self.next().await? else { continue };
            match behaviour {
                Behaviour::Says(bytes) => self.send.send(Bytes::copy_from_slice(bytes)).await.ok()?,
                Behaviour::Serves { manifest, serve, end } => {
                    self.say(&Frame::Opened { job: pull.job, incarnation: Incarnation(1) }).await?;
                    self.serve(pull.job, manifest, *serve, *end).await?;
                }
            }
        }
    }

    async fn serve(
        &mut self,
        job: JobId,
        manifest: &Manifest,
        serve: fn(&Manifest, u32) -> Vec<u8>,
        end: fn(ManifestEnd) -> ManifestEnd,
    ) -> Option<()> {
        loop {
            match self.next().await? {
                Frame::Ready { from_record, .. } => {
                    let records = manifest.records[from_record as usize..].to_vec();
                    if !records.is_empty() {
                        self.say(&Frame::Records { job, first: from_record, records }).await?;
                    }
                    self.say(&Frame::ManifestEnd(end(manifest.end(job)))).await?;
                }
                Frame::Want { ranges, .. } => {
                    for chunk in ranges.iter().flat_map(|range| range.indexes()) {
                        self.chunk(job, chunk, serve(manifest, chunk)).await;
                    }
                }
                Frame::Damaged { chunk, .. } => self.chunk(job, chunk.0, serve(manifest, chunk.0)).await,
                Frame::Finished(_) | Frame::Fail { .. } => return Some(()),
                _ => {}
            }
        }
    }

    async fn chunk(&mut self, job: JobId, chunk: u32, body: Vec<u8>) {
        let header = ChunkHeader { job, chunk: ChunkIndex(chunk), len: body.len() as u32 };
        let _ = self.link.send_chunk(header.encode().into(), vec![body.into()], 0).await;
    }

    async fn say(&mut self, frame: &Frame) -> Option<()> {
        let mut bytes = Vec::new();
        frame.encode(&mut bytes);
        self.send.send(bytes.into()).await.ok()
    }

    /// The next frame; `None` when the link is gone.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => return Some(frame),
                Ok(None) => {}
                Err(error) => {
                    self.link.close(Code::Protocol, &error.to_string());
                    return None;
                }
            }
            self.decoder.push(&self.recv.recv().await.ok()??);
        }
    }
}
