//! What is refused of the settings of an engine: each by a rule, before anything is touched.

use palisade_replication::{DOMAIN_BYTES_MAX, GroupId, MEMBERS_MAX, Member, NodeConfig};

use super::{EngineBuilder, READER_THREADS_MAX, STATE_MEMORY_BYTES_MIN};
use crate::bounds::DATA_GROUPS_MAX;
use crate::error::Error;
use crate::projection::Registry;

impl EngineBuilder {
    /// The first rule that is broken, and what to do; or which kinds of resources there will be.
    pub(crate) fn check(&self) -> Result<Registry, Error> {
        self.domain.check()?;
        let found = self.check_voters().or_else(|| self.check_bounds());
        if let Some(what) = found {
            return Err(Error::InvalidArgument { what });
        }
        let config = self.config();
        if let Some(long) =
            config.voters.values().find(|voter| voter.domain.len() > DOMAIN_BYTES_MAX)
        {
            let domain = &long.domain;
            let what =
                format!("domain={domain} is longer than {DOMAIN_BYTES_MAX} bytes: shorten it");
            return Err(Error::InvalidArgument { what });
        }
        config.validate()?;
        self.check_limits()?;
        self.added.registry()
    }

    /// Refuses limits under which nothing is ever well, or each change of leader is a failure.
    fn check_limits(&self) -> Result<(), Error> {
        let Self { limits, options, .. } = self;
        limits.check()?;
        let election_ms = 2 * u64::from(options.election_ticks) * options.tick_ms;
        if limits.disconnected_after_ms > election_ms {
            return Ok(());
        }
        Err(Error::InvalidArgument {
            what: format!(
                "disconnected_after_ms={} must be more than an election takes, which is up to twice \
                 election_ticks, {election_ms} ms",
                limits.disconnected_after_ms
            ),
        })
    }

    fn check_bounds(&self) -> Option<String> {
        let Self {
            request_timeout_ms,
            reader_threads,
            memory,
            scrub_bytes_per_second,
            data_groups,
            ..
        } = self;
        let threads = 1..=READER_THREADS_MAX;
        let least = STATE_MEMORY_BYTES_MIN;
        if self.dir.as_os_str().is_empty() {
            Some("the directory has no name: name one that is the node's own".to_owned())
        } else if *request_timeout_ms == 0 {
            Some("request_timeout_ms=0: give requests time to be done, 1 at least".to_owned())
        } else if !threads.contains(reader_threads) {
            let most = READER_THREADS_MAX;
            Some(format!("reader_threads={reader_threads}: choose 1 to {most}"))
        } else if !(1..=DATA_GROUPS_MAX).contains(data_groups) {
            Some(format!("data_groups={data_groups}: choose 1 to {DATA_GROUPS_MAX}"))
        } else if memory.cache_bytes < least {
            Some(format!("state_cache_bytes={}: choose {least} or more", memory.cache_bytes))
        } else if memory.write_buffer_bytes < least {
            let bytes = memory.write_buffer_bytes;
            Some(format!("state_write_buffer_bytes={bytes}: choose {least} or more"))
        } else if *scrub_bytes_per_second == 0 {
            Some("scrub_bytes_per_second=0: rows that nobody reads again rot unseen, choose 1 or more".to_owned())
        } else if self.keys.are_given()
            && !self.state_disk_is_encrypted
            && cfg!(feature = "rocksdb")
        {
            Some(
                "there are keys, and the state store is not sealed with them: put its directory on an encrypted \
                 disk or file system, and say so (state_disk_is_encrypted)"
                    .to_owned(),
            )
        } else {
            None
        }
    }

    fn check_voters(&self) -> Option<String> {
        let Self { node, voters, .. } = self;
        if node.get() == 0 || voters.keys().any(|voter| voter.get() == 0) {
            return Some("node=0 is no name of a node: choose one from 1 on".to_owned());
        }
        if self.joins && !voters.is_empty() {
            return Some(
                "a node that joins names no first voters: those who are members name it".to_owned(),
            );
        }
        if self.listen.is_none() && (self.joins || voters.len() > 1) {
            return Some(
                "a node among several needs an address to listen on: say listen".to_owned(),
            );
        }
        if let Some(twice) = self.twice {
            return Some(format!("voter={twice} is named twice: name each voter once"));
        }
        if !voters.is_empty() && !voters.contains_key(node) {
            return Some(format!(
                "node={node} is not among the first voters: name it too, or say joins and none of them"
            ));
        }
        if MEMBERS_MAX < voters.len() {
            return Some(format!("{} first voters: name at most {MEMBERS_MAX}", voters.len()));
        }
        voters.iter().find_map(|(voter, member)| {
            let mut others = voters.range(..voter);
            let (other, _) = others.find(|(_, other)| other.address == member.address)?;
            let address = member.address?;
            Some(format!(
                "voter={other} and voter={voter} have one address={address}: give each its own"
            ))
        })
    }

    /// The node to be opened. Who names no voters is the only one.
    pub(super) fn config(&self) -> NodeConfig {
        let mut voters = self.voters.clone();
        if voters.is_empty() && !self.joins {
            let domain = self.domain.to_string();
            voters.insert(self.node, Member { domain, ..Member::default() });
        }
        NodeConfig {
            cluster: self.cluster,
            node: self.node,
            data_dir: self.dir.clone(),
            groups: (0..=self.data_groups).map(GroupId::new).collect(),
            voters,
            listen: self.listen,
            links: self.links.clone(),
            options: self.options.clone(),
            wal: self.wal.clone(),
            disk: self.disk.clone(),
            keys: self.keys.clone(),
        }
    }
}
