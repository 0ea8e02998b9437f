//! How a link may share its path: one side asks, the other grants, and only that is used.

use std::sync::Arc;
use std::time::Duration;

use metra_core::rate::{Policy, RatePolicy};
use metra_core::wire::{Frame, FrameDecoder};
use metra_session::{LinkHandle, Request, Session, SessionConfig};
use metra_transport::{Link, Rt};
use tokio::sync::mpsc;

use crate::link::{Cable, Path, connect};
use crate::rig::ends;

/// A client that asks for a rate, and a gateway whose requests the test answers.
struct Sides {
    client: Session,
    gateway: Session,
    requests: mpsc::Receiver<Request>,
}

fn of(policy: Policy, rate: Option<u64>) -> RatePolicy {
    RatePolicy::new(policy, rate).unwrap()
}

impl Sides {
    fn new(asked: Option<RatePolicy>) -> Self {
        let session = |rate, requests| {
            Session::new(
                Rt::tokio(),
                SessionConfig { rate, is_granted: rate.is_some(), ..SessionConfig::default() },
                requests,
            )
        };
        let (unasked, mut ignored) = mpsc::channel(8);
        tokio::spawn(async move { while ignored.recv().await.is_some() {} });
        let (tx, requests) = mpsc::channel(8);
        Self { client: session(asked, unasked), gateway: session(None, tx), requests }
    }

    /// Joins one more link to both, and gives the client's end of it.
    async fn link(&self) -> (LinkHandle, Arc<Cable>) {
        let (a, b, cable) = connect(Path::default());
        let attach = async |session: &Session, end: Arc<dyn Link>| {
            let (send, recv) = end.control().await.unwrap();
            session.attach(end, send, recv, FrameDecoder::new()).unwrap()
        };
        attach(&self.gateway, b).await;
        (attach(&self.client, a).await, cable)
    }

    /// What the gateway is asked for, answered.
    async fn grant(&mut self, granted: RatePolicy) -> RatePolicy {
        let Request { link, frame } = ends(self.requests.recv()).await.unwrap();
        let Frame::Rate(asked) = frame else { panic!("{frame:?}") };
        assert!(link.send(&Frame::Granted(granted)).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        asked
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_is_granted_is_used() {
    let asked = of(Policy::Fixed, Some(900));
    let fair = of(Policy::Fair, Some(900));
    for (granted, used) in [
        (asked, asked),
        (of(Policy::Fixed, Some(500)), of(Policy::Fixed, Some(500))),
        (fair, fair),
        // Nobody asked for these.
        (of(Policy::Fixed, Some(9000)), asked),
        (of(Policy::High, None), fair),
    ] {
        let mut sides = Sides::new(Some(asked));
        let (_, cable) = sides.link().await;
        assert_eq!(sides.client.granted(), None);
        assert_eq!(sides.grant(granted).await, asked);
        assert_eq!(sides.client.granted(), Some(used), "{granted:?}");
        // Until the answer came, what needs no leave.
        assert_eq!(cable.rates(), [vec![fair, used], vec![]], "{granted:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_keeps_to_the_pace_of_its_gateway() {
    let sides = Sides::new(Some(of(Policy::High, Some(900))));
    let (_, cable) = sides.link().await;
    let link = sides.gateway.links()[0].clone();
    // It hears of 510 no more than it needs to.
    for pace in [Some(500), Some(510), Some(2000), Some(100), None, None] {
        link.pace_peer(pace);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(cable.paces(), [vec![Some(500), Some(2000), Some(100), None], vec![]]);
    // Nobody was granted anything, and nobody is told so.
    assert_eq!(sides.client.granted(), None);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_is_paced_by_nobody() {
    let mut sides = Sides::new(None);
    let (link, cable) = sides.link().await;
    assert!(link.send(&Frame::Pace(Some(1))).await);
    assert_eq!(ends(sides.requests.recv()).await.unwrap().frame, Frame::Pace(Some(1)));
    assert_eq!(cable.paces(), [vec![], vec![]]);
}

#[tokio::test(start_paused = true)]
async fn of_several_links_the_least_is_told() {
    let asked = of(Policy::Fixed, Some(900));
    let less = of(Policy::Fixed, Some(100));
    for (first, second) in [(asked, less), (less, asked)] {
        let mut sides = Sides::new(Some(asked));
        let _first = sides.link().await;
        sides.grant(first).await;
        let _second = sides.link().await;
        sides.grant(second).await;
        assert_eq!(sides.client.granted(), Some(less));
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_not_asked_is_given_nothing() {
    let mut sides = Sides::new(None);
    let (link, cable) = sides.link().await;
    // A client that grants itself what it likes at the gateway: a request like any other, and not one that there is.
    let granted = Frame::Granted(of(Policy::High, None));
    assert!(link.send(&granted).await);
    assert_eq!(ends(sides.requests.recv()).await.unwrap().frame, granted);
    assert_eq!(cable.rates(), [vec![], vec![]]);
    assert_eq!((sides.client.granted(), sides.gateway.granted()), (None, None));
}
