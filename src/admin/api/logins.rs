//! Logging in to the page: an address with a login, made over the socket, and the session that this becomes.

use bytes::Bytes;
use http::Response;

use super::noting::Noting;
use super::{Visit, arrived, bad, ok, read, refuse_pages};
use crate::admin::Body;
use crate::admin::guard::{Actor, LOGIN, SESSION, Wish};
use crate::documents::{Code, Error, PageLogin, Session, orders};
use crate::server::Peer;
use http::Request;
use hyper::body::Incoming;

impl Visit<'_> {
    /// An address of the page with a login, for who asks at the socket: whose user the kernel tells.
    pub(super) fn invite(&self) -> Result<Response<Body>, Error> {
        let Peer::Socket { uid } = self.door.peer else {
            let message = "a login for the page is made at the Unix socket only";
            return Err(Error::new(Code::Forbidden, message).with_hint("ask there: registry-mirror page"));
        };
        let page = self.state.page.as_ref().ok_or_else(|| {
            let message = "no admin address is on loopback or speaks TLS, so that a login would be read on its way";
            Error::new(Code::Configuration, message).with_hint("set server.admin = [\"127.0.0.1:5080\"]")
        })?;
        let login = self.state.guard.sessions().invite(uid);
        Ok(ok(&PageLogin { address: format!("{page}/#login={login}"), lasts_seconds: LOGIN.as_secs() }))
    }

    /// The session that a login becomes. Who shows one need show nothing else.
    pub(super) async fn log_in(
        &self,
        request: Request<Incoming>,
        noting: &mut Noting,
    ) -> Result<Response<Body>, Error> {
        refuse_pages(request.headers())?;
        self.state.guard.is_unheard(self.door)?;
        let place = self.state.guard.place(Wish::Look, "login")?;
        self.seat.give_up();
        let order: Bytes = arrived(request, "login").await?;
        let orders::Login { login } = read(&order).map_err(|_| bad("the login cannot be read".to_owned()))?;
        let begun = self.state.guard.begin_session(self.door, login.as_bytes()).await?;
        let (session, uid) = begun;
        let by = Actor::User { uid };
        tracing::info!(act = "login", %by, "act");
        noting.by(by);
        let session = Session { by: by.to_string(), session: Some(session), lasts_seconds: Some(SESSION.as_secs()) };
        Ok(super::holding(place, ok(&session)))
    }
}
