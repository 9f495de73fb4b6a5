//! What a record says, in words: the kind of command and its fields, for people.

use palisade_replication::{Offset, ProposalId, Record, StoredRegister};

use crate::command::{BatchCommand, Chore, Command};
use crate::trace::TraceContext;

/// A record as far as the engine can tell: what operations say is for their projection to know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordView {
    /// Its place in the group's log.
    pub offset: Offset,
    /// Who proposed it: one life of one process, and its own number.
    pub proposer: (u64, u64),
    /// Length of its payload.
    pub bytes: u64,
    /// The kind of command, or why it is none.
    pub command: Result<&'static str, String>,
    /// What the command says.
    pub fields: Vec<(&'static str, String)>,
}

/// A register of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisterView {
    /// What it says.
    pub fields: Vec<(&'static str, String)>,
}

pub(super) fn view(offset: Offset, record: &Record) -> RecordView {
    let ProposalId { session, seq } = record.id;
    let bytes = record.payload.len() as u64;
    let (command, fields) = match Command::decode_traced(record.payload.clone()) {
        Ok((command, trace)) => {
            let (name, mut fields) = told(&command);
            let trace_id =
                |trace: TraceContext| format!("{:032x}", u128::from_be_bytes(trace.trace_id()));
            fields.extend(trace.map(|trace| ("trace_id", trace_id(trace))));
            (Ok(name), fields)
        }
        Err(error) => (Err(error.to_string()), Vec::new()),
    };
    RecordView { offset, proposer: (session, seq), bytes, command, fields }
}

fn told(command: &Command) -> (&'static str, Vec<(&'static str, String)>) {
    match command {
        Command::Open(open) => (
            "open",
            vec![
                ("resource", open.spec.name.to_string()),
                ("kind", open.kind.to_string()),
                ("version", open.version.to_string()),
                ("must_be_new", open.anew.to_string()),
                ("caller", open.caller.to_string()),
            ],
        ),
        Command::Batch(batch) => ("batch", batch_fields(batch)),
        Command::Housekeep(chores) => {
            let of = |chore: &Chore| match chore {
                Chore::Clients => "clients".to_owned(),
                Chore::Resource(id) => format!("resource {}", id.0),
            };
            let chores: Vec<String> = chores.iter().map(of).collect();
            ("housekeep", vec![("chores", chores.join(", "))])
        }
        Command::Alter(alter) => (
            "alter",
            vec![
                ("resource_number", alter.resource.0.to_string()),
                ("expected_revision", alter.expected.to_string()),
                ("node", alter.node.to_string()),
                ("caller", alter.caller.to_string()),
                ("reason", format!("{:?}", alter.reason)),
                ("alteration", format!("{:?}", alter.alteration)),
            ],
        ),
        Command::Register { ttl_ms, registrant } => {
            let registrant = registrant.map(|of| ("registrant", format!("{of:?}")));
            let fields = std::iter::once(("ttl_ms", ttl_ms.to_string()));
            ("register", fields.chain(registrant).collect())
        }
        Command::Rebuild(rebuild) => ("rebuild", vec![("step", format!("{rebuild:?}"))]),
        Command::Claim(claim) => (
            "claim",
            vec![
                ("resource", claim.name.to_string()),
                ("affinity", claim.affinity.as_str().to_owned()),
                ("data_groups", claim.data_groups.to_string()),
            ],
        ),
        Command::Compare(compare) => ("compare", vec![("step", format!("{compare:?}"))]),
    }
}

fn batch_fields(batch: &BatchCommand) -> Vec<(&'static str, String)> {
    let mut resources: Vec<u32> = batch.parts().map(|op| op.resource.0).collect();
    resources.sort_unstable();
    resources.dedup();
    let resources: Vec<String> = resources.iter().map(u32::to_string).collect();
    let mut fields = vec![
        ("resource_numbers", resources.join(", ")),
        ("guards", batch.guards.len().to_string()),
        ("operations", batch.then.len().to_string()),
        ("otherwise", batch.otherwise.len().to_string()),
        ("caller", batch.caller.to_string()),
    ];
    if let Some(number) = batch.number {
        fields.push(("client", number.client.to_string()));
        fields.push(("command_number", number.seq.to_string()));
    }
    fields
}

pub(super) fn register(register: &StoredRegister) -> RegisterView {
    let vote = register.vote.map_or("nobody".to_owned(), |node| node.to_string());
    let member = |(node, role)| format!("{node} {}", format!("{role:?}").to_lowercase());
    let members: Vec<String> = register.members.roles().map(member).collect();
    RegisterView {
        fields: vec![
            ("term", register.term.to_string()),
            ("vote", vote),
            ("commit", register.commit.to_string()),
            ("trimmed_index", register.base.index.to_string()),
            ("trimmed_offset", register.base.offset.to_string()),
            ("probation", register.probation.to_string()),
            ("members", members.join(", ")),
        ],
    }
}
