//! Who may do what, and what was refused.

use palisade_proto::access::v1 as proto;
use palisade_proto::access::v1::access_client::AccessClient;
use palisade_proto::access::v1::{AuditRecord, Grant, Granted, Right};
use palisade_proto::common::v1::Position;

use crate::client::{Call, Client};
use crate::error::Error;
use crate::retry::Kind;

/// The grants of a cluster, for whoever administers `palisade.access`, and its audit, for whoever administers
/// `palisade.audit`.
#[derive(Clone)]
pub struct Access {
    client: Client,
}

/// A part of the audit.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditPage {
    /// What happened.
    pub records: Vec<AuditRecord>,
    /// Where to go on; nothing if there was no more.
    pub next: Option<Position>,
}

/// What [`Access::revoke`] has come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Revoked {
    /// What the caller has now.
    pub left: Vec<Grant>,
    /// False if there was nothing to take: it was never granted under this name, or an attempt before this one took
    /// it.
    pub changed: bool,
}

impl Access {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Adds rights to what a caller has, and says all of it. The node that answers goes by them at once, the
    /// others in a moment.
    ///
    /// # Errors
    /// What the node says, as `INVALID_ARGUMENT` or `REVOKED`, or `DISCONNECTED` if nobody has answered in time.
    pub async fn grant(&self, client: &str, grant: Grant) -> Result<Vec<Grant>, Error> {
        let asked = proto::GrantRequest { client: client.to_owned(), grant: Some(grant) };
        let done = self.client.call(change(), asked, |channel, request| async {
            AccessClient::new(channel).grant(request).await
        });
        Ok(done.await?.grants)
    }

    /// Takes rights away that a caller was granted under this name or prefix, or under any if none is named,
    /// and says what is left, and whether anything was taken. All rights, if none are named.
    ///
    /// # Errors
    /// As [`Access::grant`].
    pub async fn revoke(
        &self,
        client: &str,
        resource: Option<&str>,
        rights: &[Right],
    ) -> Result<Revoked, Error> {
        let asked = proto::RevokeRequest {
            client: client.to_owned(),
            resource: resource.unwrap_or_default().to_owned(),
            rights: rights.iter().map(|right| (*right).into()).collect(),
        };
        let done = self.client.call(change(), asked, |channel, request| async {
            AccessClient::new(channel).revoke(request).await
        });
        let proto::RevokeResponse { grants, receipt } = done.await?;
        Ok(Revoked { left: grants, changed: receipt.is_some() })
    }

    /// What was granted, to one caller or to all of them.
    ///
    /// # Errors
    /// As [`Access::grant`].
    pub async fn list(&self, client: Option<&str>) -> Result<Vec<Granted>, Error> {
        let client = client.unwrap_or_default().to_owned();
        let (mut found, mut after) = (Vec::new(), String::new());
        loop {
            let asked = proto::ListRequest { client: client.clone(), after };
            let page = self.client.call(Call::read(), asked, |channel, request| async {
                AccessClient::new(channel).list(request).await
            });
            let page = page.await?;
            found.extend(page.granted);
            if page.next.is_empty() {
                return Ok(found);
            }
            after = page.next;
        }
    }

    /// A page of the audit: as many records as fit, or up to `limit` if that is not 0, from this position on,
    /// or with `newest_first` those before it. Without a position, from the end that is to be first.
    ///
    /// # Errors
    /// `NOT_FOUND` of kind `TRIMMED` if that is not kept any more, and as [`Access::grant`].
    pub async fn audit(
        &self,
        from: Option<Position>,
        limit: u32,
        newest_first: bool,
    ) -> Result<AuditPage, Error> {
        let asked = proto::ListAuditRequest { from, limit, newest_first };
        let page = self.client.call(Call::read(), asked, |channel, request| async {
            AccessClient::new(channel).list_audit(request).await
        });
        let proto::ListAuditResponse { records, next } = page.await?;
        Ok(AuditPage { records, next })
    }
}

/// Sent again, it has no further effect.
fn change() -> Call {
    Call { kind: Kind::Once, ..Call::read() }
}
