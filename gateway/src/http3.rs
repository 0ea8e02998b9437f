//! HTTP/3: connections of the UDP side that agreed on it. The same site as over TCP.

use std::sync::Arc;
use std::time::Duration;

use metra_transport::quic::Http3Connection;
use metra_tunnel::http3::{Limits, serve};

use crate::http::{Connection, Site, Sites};
use crate::measure::{Dropped, connection_dropped, http3_failed};
use crate::places::Places;

/// Requests at a time. Tunnels are counted elsewhere.
const STREAMS: u32 = 256;

/// Answers the requests of one connection until it ends, or makes way for others.
pub(crate) async fn http3(
    sites: Arc<Sites>,
    pending: Arc<Places>,
    connection: Http3Connection,
    handshake: Duration,
) {
    let peer = connection.peer();
    let place = match pending.take(peer.ip()) {
        Ok(place) => place,
        Err(why) => {
            connection_dropped(why.into());
            return connection.close();
        }
    };
    let displaced = place.displaced();
    let _held = sites.drain.hold();
    let certificates = connection.peer_certificates();
    let about = Connection::new(peer, certificates, Duration::ZERO, place, None);
    let about = Arc::new(about.deferring(connection.deferral()));
    let limits = Limits {
        idle: handshake,
        head_time: handshake,
        grace: handshake,
        streams: STREAMS,
        ..Limits::default()
    };
    let site = Site::new(sites.clone(), about);
    let connection = connection.into_inner();
    let served = serve(&sites.rt, connection, site, &limits, sites.drain.begun());
    tokio::select! {
        () = displaced => connection_dropped(Dropped::Displaced),
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%peer, %error, "HTTP/3 ended");
                http3_failed(&error);
            }
        }
    }
}
