//! What is done with a connection that stands: see the module above.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use metra_core::code::Code;
use metra_core::wire::{Auth, Frame, FrameDecoder, Hello, filler};
use metra_fallback::ladder::Rung;
use metra_session::read_frame;
use metra_transport::{ControlRecv, ControlSend, Link, LinkError, Rt};

use super::{MTU, PATIENCE, Probe, Trouble};
use crate::connect::ConnectOptions;
use crate::error::ClientError;
use crate::reach::Reached;

/// How long nothing may arrive before it is a stall.
const STALL: Duration = Duration::from_secs(4);
/// The longest that all the bytes may take: the gateway waits for `Hello` for 10 s.
const EXCHANGE: Duration = Duration::from_secs(8);
/// The shortest and the longest that is waited for the MTU.
const MTU_SEARCH: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(4));
/// What is sent. Bytes; in frames of a quarter of it.
const BALLAST: usize = 256 * 1024;
/// Listings that are asked for at once, and what is enough of their answers. Bytes.
const LISTINGS: (u64, u64) = (64, 256 * 1024);
const LOOK: Duration = Duration::from_millis(10);

/// What is done with a connection that stands.
pub(super) struct Trial<'a> {
    pub(super) rt: &'a Rt,
    pub(super) options: &'a ConnectOptions,
    pub(super) reached: &'a Reached,
}

impl Trial<'_> {
    pub(super) async fn run(&self, probe: &mut Probe) -> Result<(), Trouble> {
        let later = |error: LinkError| Trouble::later(&error);
        let (mut send, mut recv) = self.link().control().await.map_err(later)?;
        tokio::select! {
            biased;
            // Why it ended says more than that nothing more could be sent.
            error = self.link().closed() => return Err(Trouble::later(&error)),
            result = self.exchange(send.as_mut(), probe.rung) => result?,
        }
        probe.inspected = self.inspected();
        if self.options.refuse_inspection && probe.inspected == Some(true) {
            // No credentials for whoever reads along.
            return Ok(());
        }
        let mut decoder = FrameDecoder::new();
        probe.answer = Some(Ok(self.greet(send.as_mut(), &mut recv, &mut decoder).await?));
        self.listings(send.as_mut(), &mut recv, &mut decoder).await
    }

    fn link(&self) -> &Arc<dyn Link> {
        &self.reached.link
    }

    /// The gateway's word of it is the first that it sends on a byte stream, and has come by now.
    fn inspected(&self) -> Option<bool> {
        self.reached.stream.as_ref()?.upgrade()?.is_inspected()
    }

    /// Sends what means nothing, and waits until it has arrived.
    async fn exchange(&self, send: &mut dyn ControlSend, rung: Rung) -> Result<(), Trouble> {
        let before = self.link().stats().acked_bytes;
        let later = |error: LinkError| Trouble::later(&error);
        let frame: Bytes = filler(BALLAST / 4).into();
        let sending = async {
            for _ in 0..4 {
                send.send(frame.clone()).await?;
            }
            Ok(())
        };
        let (sent, arrived) = futures_util::join!(sending, self.arrival(before));
        arrived?;
        sent.map_err(later)?;
        if rung.kind() == Rung::Masque.kind() || rung == Rung::Quic {
            self.mtu(send).await.map_err(later)?;
        }
        Ok(())
    }

    async fn arrival(&self, before: u64) -> Result<(), Trouble> {
        let began = self.rt.now();
        let (mut last, mut moved) = (before, began);
        loop {
            let (now, acked) = (self.rt.now(), self.link().stats().acked_bytes);
            if acked >= before + BALLAST as u64 {
                return Ok(());
            }
            if acked > last {
                (last, moved) = (acked, now);
            }
            let passed = |since: Instant| now.saturating_duration_since(since);
            if passed(moved) >= STALL || passed(began) >= EXCHANGE {
                return Err(Trouble::Stalled { arrived: acked - before, of: BALLAST as u64 });
            }
            self.rt.sleep(LOOK).await;
        }
    }

    /// Waits until the search for the MTU has come to its end. A probe counts as lost only when something later has arrived,
    /// so something is always under way.
    async fn mtu(&self, send: &mut dyn ControlSend) -> Result<(), LinkError> {
        let found = || {
            let stats = self.link().stats();
            (stats.mtu, stats.lost_mtu_probes)
        };
        let (began, rtt) = (self.rt.now(), self.link().rtt());
        let (shortest, longest) = MTU_SEARCH;
        let until = began + (rtt * 15).clamp(shortest, longest);
        let quiet = (rtt * 4).max(shortest / 4);
        let (mut last, mut changed) = (found(), began);
        while self.rt.now() < until {
            send.send(filler(8).into()).await?;
            self.rt.sleep((rtt / 4).max(LOOK * 2)).await;
            let (now, found) = (self.rt.now(), found());
            if found != last {
                (last, changed) = (found, now);
            }
            if found.0 >= MTU || (found.0 > 1200 && now.saturating_duration_since(changed) >= quiet) {
                break;
            }
        }
        Ok(())
    }

    /// Says hello; gives the user that the gateway knows.
    async fn greet(
        &self,
        send: &mut dyn ControlSend,
        recv: &mut Box<dyn ControlRecv>,
        decoder: &mut FrameDecoder,
    ) -> Result<String, Trouble> {
        let auth = self.options.token.clone().map_or(Auth::None, Auth::Bearer);
        let hello = Frame::Hello(Hello { version: 1, auth, agent: self.options.agent.clone() });
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        send.send(bytes.into()).await.map_err(|error| Trouble::later(&error))?;
        match self.rt.timeout(PATIENCE, read_frame(recv, decoder)).await {
            Ok(Ok(Some(Frame::Welcome(welcome)))) => Ok(welcome.user),
            Ok(Ok(Some(Frame::Close { code, reason }))) => {
                Err(Trouble::Answer(ClientError::new(code, format!("the gateway says: {reason}"))))
            }
            Ok(Ok(Some(_))) => {
                let message = "the gateway did not answer with Welcome";
                Err(Trouble::Answer(ClientError::new(Code::Protocol, message)))
            }
            // The stream breaks with the link; why the link is closed says more.
            Ok(Ok(None) | Err(_)) => Err(self.ended().await),
            Err(_) => Err(self.stalled()),
        }
    }

    /// Asks for the root again and again, all at once: for what comes back.
    async fn listings(
        &self,
        send: &mut dyn ControlSend,
        recv: &mut Box<dyn ControlRecv>,
        decoder: &mut FrameDecoder,
    ) -> Result<(), Trouble> {
        let mut bytes = Vec::new();
        for request in 0..LISTINGS.0 {
            Frame::List { request, path: String::new(), depth: 1 }.encode(&mut bytes);
        }
        send.send(bytes.into()).await.map_err(|error| Trouble::later(&error))?;
        let before = self.link().stats().received_bytes;
        let mut answered = 0;
        while answered < LISTINGS.0 && self.link().stats().received_bytes - before < LISTINGS.1 {
            match self.rt.timeout(PATIENCE, read_frame(recv, decoder)).await {
                Ok(Ok(Some(Frame::Result { .. }))) => answered += 1,
                Ok(Ok(Some(_))) => {}
                Ok(_) => return Err(self.ended().await),
                Err(_) => return Err(self.stalled()),
            }
        }
        Ok(())
    }

    async fn ended(&self) -> Trouble {
        match self.rt.timeout(PATIENCE, self.link().closed()).await {
            Ok(error) => Trouble::later(&error),
            Err(_) => Trouble::Lost("the gateway ended its side and said nothing".to_owned()),
        }
    }

    fn stalled(&self) -> Trouble {
        let of = BALLAST as u64;
        Trouble::Stalled { arrived: self.link().stats().acked_bytes.min(of), of }
    }
}
