//! Where backups of a node lie: a directory, through the one store that the engine writes to.
//!
//! Only directories: the clouds' stores of `object_store` need a second TLS stack, in C. What copies the
//! directory elsewhere copies whole backups, since no file is ever changed.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use palisade::backup::BackupPlace;

use crate::security::files::make_dir;

/// How much was written to a place.
#[derive(Debug, Default)]
pub struct Written {
    files: AtomicU64,
    bytes: AtomicU64,
}

impl Written {
    /// Files and bytes, so far.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        (self.files.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// The place of a directory that is there, and how much is written to it through this.
///
/// # Errors
/// When it is not there, or cannot be looked at.
pub fn open(dir: &FilePath) -> io::Result<(BackupPlace, Arc<Written>)> {
    // Also where the store is lenient: a directory that is not there holds no backups, and is not made here.
    fs::read_dir(dir)?;
    let files = LocalFileSystem::new_with_prefix(dir).map_err(io::Error::other)?;
    let written = Arc::new(Written::default());
    let store = Counted { files: files.with_fsync(true), written: Arc::clone(&written) };
    let place = BackupPlace::new(Arc::new(store), "").map_err(io::Error::other)?;
    Ok((place, written))
}

/// The same, of a directory that is made if it is not there.
///
/// # Errors
/// As [`open`].
pub fn open_or_make(dir: &FilePath) -> io::Result<(BackupPlace, Arc<Written>)> {
    make_dir(dir)?;
    open(dir)
}

/// Files of a directory; what is put there is counted.
#[derive(Debug)]
struct Counted {
    files: LocalFileSystem,
    written: Arc<Written>,
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.files.fmt(f)
    }
}

#[tonic::async_trait]
impl ObjectStore for Counted {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> Result<PutResult> {
        let bytes = payload.content_length() as u64;
        let put = self.files.put_opts(location, payload, opts).await?;
        self.written.files.fetch_add(1, Ordering::Relaxed);
        self.written.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(put)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.files.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}
