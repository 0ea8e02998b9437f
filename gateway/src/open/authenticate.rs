//! A layer that finds out who it is.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use metra_certs::TicketError;
use metra_core::code::Code;
use metra_core::wire::Auth;
use metra_transport::Link;
use tower::{Layer, Service};

use super::{Greeted, Known, Refused};
use crate::account::{self, ANONYMOUS};
use crate::sessions::Sessions;

/// See the module's documentation.
#[derive(Clone)]
pub(super) struct AuthenticateLayer {
    sessions: Arc<Sessions>,
}

impl AuthenticateLayer {
    pub(super) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate { inner, sessions: self.sessions.clone() }
    }
}

/// See [`AuthenticateLayer`].
#[derive(Clone)]
pub(super) struct Authenticate<S> {
    inner: S,
    sessions: Arc<Sessions>,
}

impl<S> Service<Greeted> for Authenticate<S>
where
    S: Service<Known, Error = Refused> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<S::Response, Refused>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, greeted: Greeted) -> Self::Future {
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let sessions = self.sessions.clone();
        Box::pin(async move {
            let known = authenticate(&sessions, greeted).await?;
            let account = known.account.clone();
            inner.call(known).await.map_err(|refused: Refused| refused.of(&account.name))
        })
    }
}

async fn authenticate(sessions: &Sessions, greeted: Greeted) -> Result<Known, Refused> {
    let (from, link) = (greeted.arrival.peer.ip(), greeted.arrival.link.clone());
    if let Auth::Ticket(ticket) = &greeted.hello.auth {
        let opened = sessions.open_ticket(ticket);
        if opened == Err(TicketError::Forged) {
            confirmed(&link).await?;
            sessions.identities().forged(from);
        }
        let known = opened.ok().and_then(|(id, name)| {
            let account = account::by_name(sessions.config(), &name, from);
            // Whom the configuration does not know, a provider's token stood for: for as long as the session lives, no
            // new token is asked for.
            Some((id, account.or_else(|| sessions.account(id, &name))?))
        });
        let Some((session, account)) = known else {
            return Err(Refused::new(
                Code::Unauthenticated,
                "the ticket has expired or is not of this gateway",
            ));
        };
        return Ok(Known {
            greeted,
            account,
            session: Some(session),
            permitted: None,
            by: "session.ticket".into(),
        });
    }
    // A certificate is known only now, too; early data shows none.
    confirmed(&link).await?;
    let by_certificate = greeted.hello.auth == Auth::None && sessions.config().tls.client_ca.is_some();
    let certificates = if by_certificate { link.peer_certificates() } else { None };
    let (config, auth) = (sessions.config(), &greeted.hello.auth);
    let account = sessions.identities().authenticate(config, auth, certificates.as_deref(), from).await?;
    let by = match (&greeted.hello.auth, account.name.as_str()) {
        (Auth::Bearer(_), name) if config.users.by_name(name).is_none() => "jwt",
        (Auth::Bearer(_), _) => "user.token",
        (_, ANONYMOUS) => "anonymous",
        _ => "user.certificate",
    };
    Ok(Known { greeted, account, session: None, permitted: None, by: by.into() })
}

/// Waits until the peer is known to be where it seems to be, before what it has done wrong there is counted. Early data can come with
/// any source address (RFC 9000 section 8.1): others would wait for what they did not do.
async fn confirmed(link: &Arc<dyn Link>) -> Result<(), Refused> {
    let confirmed = link.handshake_confirmed().await;
    confirmed.map_err(|e| Refused::new(Code::Timeout, e.to_string()))
}
