//! The first of several addresses that accepts a connection (RFC 8305).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use metra_transport::Rt;

/// After how long without an outcome the next address is tried as well (RFC 8305 section 5).
pub const STAGGER: Duration = Duration::from_millis(250);

/// Puts the addresses into the order in which they are tried: the resolver's, but with the families taking turns,
/// so that one that does not work costs one delay and not one an address (RFC 8305 section 4).
pub fn order(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let mut rest: Vec<_> = addresses.into_iter().collect();
    let mut ordered: Vec<SocketAddr> = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let other = ordered.last().map(SocketAddr::is_ipv4);
        let next = rest.iter().position(|a| Some(a.is_ipv4()) != other).unwrap_or(0);
        let next = rest.remove(next);
        if !ordered.contains(&next) {
            ordered.push(next);
        }
    }
    ordered
}

/// Connects to the addresses in their order: to the next as soon as one fails, or [`STAGGER`] after the last was
/// begun. The first that connects wins, and the others are dropped.
///
/// # Errors
/// When all have failed, one of their errors, and whose it is: the last that says more than `says_little` thinks. `None` if
/// there is no address.
pub async fn connect<T, E, F>(
    rt: &Rt,
    addresses: &[SocketAddr],
    mut connect: impl FnMut(SocketAddr) -> F,
    says_little: impl Fn(&E) -> bool,
) -> Result<T, Option<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut next = addresses.iter().copied();
    let mut running = FuturesUnordered::new();
    let mut begin = |running: &mut FuturesUnordered<_>| {
        next.next().map(|address| {
            let attempt = connect(address);
            running.push(async move { (address, attempt.await) });
        })
    };
    let mut failure = None;
    let mut more = begin(&mut running).is_some();
    while !running.is_empty() {
        let outcome = tokio::select! {
            biased;
            outcome = running.next() => outcome,
            () = rt.sleep(STAGGER), if more => None,
        };
        match outcome {
            Some((_, Ok(connected))) => return Ok(connected),
            Some((address, Err(error))) if failure.is_none() || !says_little(&error) => {
                failure = Some((address, error));
            }
            Some((_, Err(_))) | None => {}
        }
        more = begin(&mut running).is_some();
    }
    Err(failure)
}

/// Whether an error is this system's, which may only lack a family of addresses: the word of a host says more.
pub(crate) fn is_local(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, NetworkUnreachable, Unsupported};
    matches!(error.kind(), AddrNotAvailable | NetworkUnreachable | Unsupported)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::cell::RefCell;

    use tokio::time::{Instant, sleep};

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|t| SocketAddr::new(t.parse().unwrap(), 1)).collect()
    }

    #[test]
    fn families_take_turns() {
        let given = addresses(&["::1", "::2", "::3", "1.1.1.1", "::1", "2.2.2.2"]);
        assert_eq!(order(given), addresses(&["::1", "1.1.1.1", "::2", "2.2.2.2", "::3"]));
        let given = addresses(&["1.1.1.1", "2.2.2.2"]);
        assert_eq!(order(given.clone()), given);
        assert_eq!(order([]), []);
    }

    /// Runs a race in which the n-th address has its outcome after some milliseconds, and says what was begun when.
    async fn race(
        outcomes: &[(u64, Result<(), io::ErrorKind>)],
    ) -> (Result<u16, Option<(u16, io::ErrorKind)>>, Vec<(u16, u128)>) {
        let all: Vec<_> = (0..outcomes.len() as u16).map(|n| SocketAddr::from(([127, 0, 0, 1], n))).collect();
        let (begun, start) = (RefCell::new(Vec::new()), Instant::now());
        let attempt = |address: SocketAddr| {
            begun.borrow_mut().push((address.port(), start.elapsed().as_millis()));
            let (after, outcome) = outcomes[usize::from(address.port())];
            async move {
                sleep(Duration::from_millis(after)).await;
                outcome.map(|()| address.port()).map_err(io::Error::from)
            }
        };
        let result = connect(&Rt::tokio(), &all, attempt, is_local).await;
        let result = result.map_err(|error| error.map(|(a, e)| (a.port(), e.kind())));
        (result, begun.into_inner())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_connects_wins() {
        // RFC 8305 section 5: the next is begun after the delay, and what was begun before goes on.
        assert_eq!(
            race(&[(300, Ok(())), (9000, Ok(())), (0, Ok(()))]).await,
            (Ok(0), vec![(0, 0), (1, 250)])
        );
        assert_eq!(race(&[(9000, Ok(())), (10, Ok(()))]).await, (Ok(1), vec![(0, 0), (1, 250)]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_begins_the_next_at_once() {
        let refused = Err(io::ErrorKind::ConnectionRefused);
        assert_eq!(race(&[(10, refused), (20, Ok(()))]).await, (Ok(1), vec![(0, 0), (1, 10)]));
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_telling_failure_is_told() {
        let refused = io::ErrorKind::ConnectionRefused;
        let unreachable = io::ErrorKind::NetworkUnreachable;
        assert_eq!(race(&[(9, Err(refused)), (1, Err(unreachable))]).await.0, Err(Some((0, refused))));
        assert_eq!(race(&[(9, Err(unreachable)), (1, Err(refused))]).await.0, Err(Some((1, refused))));
        assert_eq!(race(&[(1, Err(unreachable))]).await.0, Err(Some((0, unreachable))));
        assert_eq!(race(&[]).await.0, Err(None));
    }
}
