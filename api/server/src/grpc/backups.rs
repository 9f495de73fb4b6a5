//! `palisade.admin.v1.Backups`: a call is a backup, which ends when nobody waits for it any more.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use palisade::backup::{BackupError, BackupId, BackupSummary};
use palisade::{ClusterId, Error};
use palisade_proto::admin::v1 as proto;
use palisade_proto::admin::v1::backups_server::Backups as Service;
use palisade_proto::failure::{Code, Disposition, Failure, kind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tonic::{Request, Response, Status};

use super::endpoint::{CLUSTER, Endpoint};
use super::failure::{code_of, disposition_of, failure};
use super::streams::Messages;
use crate::backups::{Written, open_or_make};
use crate::security::grants::Right;

/// Between two words of how far it is.
const PROGRESS: Duration = Duration::from_millis(200);
/// When to come back while another is taken.
const BUSY: Duration = Duration::from_secs(5);

/// Backups of one node.
#[derive(Clone)]
pub(crate) struct Backups {
    endpoint: Endpoint,
    dir: Option<PathBuf>,
    /// One at a time: each holds files in memory, and a snapshot of the state.
    room: Arc<Semaphore>,
}

impl Backups {
    pub(crate) fn new(endpoint: Endpoint, dir: Option<PathBuf>) -> Self {
        Self { endpoint, dir, room: Arc::new(Semaphore::new(1)) }
    }

    fn dir(&self) -> Result<&Path, Failure> {
        self.dir.as_deref().ok_or_else(|| {
            let help = "set backup.dir in its configuration, or ask a node that has it";
            let what = "this node keeps no backups";
            Failure::new(Code::NotFound, Code::NotFound.as_str(), Disposition::Reject, what, help)
        })
    }

    fn room(&self) -> Result<OwnedSemaphorePermit, Failure> {
        Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            let (code, what) = (Code::RateLimited, "another backup of this node is being taken");
            let help = "wait until it is there";
            Failure::new(code, code.as_str(), Disposition::Retry, what, help).after(BUSY)
        })
    }

    async fn begin(&self, asked: proto::CreateRequest) -> Result<Taken, Failure> {
        let dir = self.dir()?.to_owned();
        let (id, parent) = named(&asked)?;
        let room = self.room()?;
        let failed = |error: &dyn std::fmt::Display| {
            let what = format!("the directory of backups: {error}");
            failure(&Error::InternalError { what })
        };
        let opened = spawn_blocking(move || open_or_make(&dir)).await;
        let (place, written) =
            opened.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        let engine = self.endpoint.engine.clone();
        let mut work = JoinSet::new();
        work.spawn(async move {
            // Until it has ended, however.
            let _room = room;
            let backup = engine.backup(&place);
            let backup = match asked.bytes_per_second {
                0 => backup,
                bytes => backup.bytes_per_second(bytes),
            };
            match &parent {
                None => backup.full(&id).await,
                Some(parent) => backup.incremental(&id, parent).await,
            }
        });
        Ok(Taken { work, written })
    }
}

/// What it is to be called, and which one it comes after.
pub(crate) fn named(asked: &proto::CreateRequest) -> Result<(BackupId, Option<BackupId>), Failure> {
    let named = |text: &str| BackupId::new(text).map_err(|error| told(&error));
    let parent = match asked.parent.as_str() {
        "" => None,
        parent => Some(named(parent)?),
    };
    Ok((named(&asked.id)?, parent))
}

/// A backup that is being taken; dropped, it ends.
struct Taken {
    work: JoinSet<Result<BackupSummary, BackupError>>,
    written: Arc<Written>,
}

type Told = Result<proto::CreateResponse, Status>;

impl Taken {
    /// What is told next; none once the last was.
    async fn next(mut self) -> (Told, Option<Self>) {
        use proto::create_response::Told as Of;
        let say = |told| Ok(proto::CreateResponse { told: Some(told) });
        tokio::select! {
            biased;
            done = self.work.join_next() => {
                let done = match done {
                    Some(Ok(Ok(summary))) => say(Of::Backup(backup(&summary))),
                    Some(Ok(Err(error))) => Err(told(&error).into()),
                    _ => {
                        let what = "the backup has stopped".to_owned();
                        Err(failure(&Error::InternalError { what }).into())
                    }
                };
                (done, None)
            }
            () = sleep(PROGRESS) => {
                let (files, bytes) = self.written.so_far();
                (say(Of::Progress(proto::Progress { files, bytes })), Some(self))
            }
        }
    }
}

fn backup(summary: &BackupSummary) -> proto::Backup {
    let parts = summary.groups.iter().map(|(group, part)| proto::Part {
        group: group.get(),
        from: part.from.get(),
        to: part.to.get(),
        log_time_ms: part.log_time.get(),
        files: part.files as u64,
        bytes: part.bytes,
    });
    proto::Backup {
        id: summary.id.to_string(),
        parent: summary.parent.as_ref().map(BackupId::to_string).unwrap_or_default(),
        cluster: ClusterId::get(summary.cluster).to_be_bytes().to_vec().into(),
        parts: parts.collect(),
    }
}

/// The failure that tells of one of a backup.
fn told(error: &BackupError) -> Failure {
    let help = match error {
        BackupError::Engine(error) => return failure(error),
        BackupError::Missing { .. } => "name a backup that is there, and has its manifest",
        BackupError::Damaged { .. } => "take a full backup, under another id",
        BackupError::UnknownFormat { .. } => "use a release that knows the format",
        BackupError::Foreign { .. } => "use a directory of its own for each cluster",
        BackupError::BrokenChain { .. } | BackupError::Trimmed { .. } => "take a full backup",
        BackupError::Behind { .. } => "take it later, or of another node",
        BackupError::Compacted { .. } => "choose an older backup",
        BackupError::AlreadyExists { .. } => "choose another id",
        BackupError::InvalidArgument { .. } => "change the request",
        BackupError::Store { .. } => "check the rights and the space of the directory of backups",
        _ => "look at the log of the node",
    };
    let code = code_of(error.failure());
    let kind = match error {
        BackupError::Trimmed { .. } => kind::TRIMMED,
        BackupError::Compacted { .. } => kind::COMPACTED,
        _ => code.as_str(),
    };
    Failure::new(code, kind, disposition_of(error.disposition()), error.to_string(), help)
}

#[tonic::async_trait]
impl Service for Backups {
    type CreateStream = Messages<proto::CreateResponse>;

    async fn create(
        &self,
        request: Request<proto::CreateRequest>,
    ) -> Result<Response<Self::CreateStream>, Status> {
        let (call, asked) = self.endpoint.begin(request)?;
        self.endpoint.allow(&call, Right::Admin, CLUSTER)?;
        let taken = self.begin(asked).await?;
        let messages = stream::unfold(Some(taken), |taken| async { Some(taken?.next().await) });
        let going = self.endpoint.while_allowed(call, Right::Admin, CLUSTER.to_owned(), messages);
        Ok(Response::new(going))
    }
}
