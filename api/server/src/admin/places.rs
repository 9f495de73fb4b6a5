//! A listener that takes so many connections and no more.

use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::grpc::Connection;

/// How long who asked may leave an answer unread before the place goes to others.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After the system had no room for a connection.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Places {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl Places {
    pub(super) fn new(listener: TcpListener, most: usize) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(most)) }
    }

    /// The next connection, once there is a place for it.
    pub(super) async fn next(&self) -> Connection {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.expect("nobody closes the places");
        loop {
            match self.listener.accept().await {
                Ok((stream, address)) => {
                    let unread = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
                    if let Err(error) = unread {
                        tracing::warn!(%error, "a connection of the admin port has no bound in time");
                    }
                    return Connection::plain(stream, address, place);
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection of the admin port was not taken");
                    sleep(PAUSE).await;
                }
            }
        }
    }
}
