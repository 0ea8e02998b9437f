//! A layer that finds out who it is.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use metra_core::code::Code;
use metra_core::wire::Auth;
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
    let from = greeted.arrival.peer.ip();
    if let Auth::Ticket(ticket) = &greeted.hello.auth {
        let known = sessions.open_ticket(ticket);
        let known = known.and_then(|(id, name)| {
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
        return Ok(Known { greeted, account, session: Some(session), permitted: None, by: "session.ticket" });
    }
    let by_certificate = greeted.hello.auth == Auth::None && sessions.config().tls.client_ca.is_some();
    if by_certificate {
        // The certificate is known only when the handshake is complete; early data shows none.
        let link = &greeted.arrival.link;
        link.handshake_confirmed().await.map_err(|e| Refused::new(Code::Timeout, e.to_string()))?;
    }
    let certificates = if by_certificate { greeted.arrival.link.peer_certificates() } else { None };
    let (config, auth) = (sessions.config(), &greeted.hello.auth);
    let account = sessions.identities().authenticate(config, auth, certificates.as_deref(), from).await?;
    let by = match (&greeted.hello.auth, account.name.as_str()) {
        (Auth::Bearer(_), name) if config.users.by_name(name).is_none() => "jwt",
        (Auth::Bearer(_), _) => "user.token",
        (_, ANONYMOUS) => "anonymous",
        _ => "user.certificate",
    };
    Ok(Known { greeted, account, session: None, permitted: None, by })
}
