//! A process whose services answer at once and store nothing: what gRPC itself takes.

use std::io::Read;
use std::net::SocketAddr;

use palisade_benches as benches;
use palisade_benches::connect;

use super::ours::{GrpcReads, streams, unary_puts};
use crate::load::{CONNECTIONS, Load, Told, Way, Work};
use crate::party::{Party, not_offered};
use crate::server::{Talker, Unavailable, answer, text};

pub(crate) struct Echo {
    process: Talker,
    address: SocketAddr,
}

impl Echo {
    pub(crate) async fn start() -> Result<Self, Unavailable> {
        let mut process = Talker::start(&["echo".to_owned()])?;
        let address: SocketAddr = process.hear().await?;
        Ok(Self { process, address })
    }
}

#[tonic::async_trait]
impl Party for Echo {
    fn processes(&self) -> Vec<u32> {
        self.process.process().into_iter().collect()
    }

    async fn load(&mut self, load: &Load) -> Result<Told, String> {
        match (load.work, load.way) {
            (Work::Put, Way::Unary) => unary_puts(self.address, load).await,
            (Work::Put, Way::Stream | Way::Batched) => streams(self.address, load).await,
            (Work::Get | Work::GetAtLeast, Way::Unary) => {
                let channels = connect(self.address, CONNECTIONS).await?;
                GrpcReads { channels, at_least: None }.run(load).await
            }
            _ => Err(not_offered(load)),
        }
    }

    async fn stop(self: Box<Self>) {
        self.process.stop().await;
    }
}

/// The process itself: says where it listens, and serves until its standard input ends.
pub(crate) async fn serve() -> Result<(), String> {
    let echo = benches::Echo::serve().await?;
    answer(Ok(echo.address()))?;
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).map(|_| ()).map_err(text)
}
