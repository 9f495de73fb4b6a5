//! `palisade fence`: what is fenced at a node that runs, and what an operator can clear of it.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use palisade::{Error, Failure};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use super::failed::Failed;
use super::output::Found;
use super::runtime;
use super::table::table;

/// What is fenced at a running node, asked at its admin port.
#[derive(Subcommand)]
pub(super) enum FenceCommand {
    List(ListArgs),
    Clear(ClearArgs),
}

/// List replicas that have halted at the node, divergences, and the epochs of writers.
#[derive(Args)]
pub(super) struct ListArgs {
    /// The admin port of the node, as in listen.admin.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: SocketAddr,
}

/// Make a replica anew that has halted because its state is wrong: its state and log there are given up.
#[derive(Args)]
pub(super) struct ClearArgs {
    /// The admin port of the node, as in listen.admin.
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: SocketAddr,
    /// The group whose replica has halted.
    #[arg(long, value_name = "NUMBER")]
    group: u64,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do it; without, only the plan is shown.
    #[arg(long)]
    confirm: bool,
}

impl FenceCommand {
    pub(super) fn run(self) -> Result<Found, Failed> {
        match self {
            Self::List(args) => args.run(),
            Self::Clear(args) => args.run(),
        }
    }
}

/// Sends a request to a node, and gives what it answers.
fn answered(request: RequestBuilder) -> Result<Value, Failed> {
    runtime()?.block_on(async {
        let unreached = |error: reqwest::Error| {
            let what = format!("the admin port was not reached: {error}");
            Failed::of(Failure::Disconnected, what, "is the node up, and is this its listen.admin?")
        };
        let answer = request.send().await.map_err(unreached)?;
        let ok = answer.status().is_success();
        let found: Value = answer.json().await.map_err(unreached)?;
        if ok {
            return Ok(found);
        }
        let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
        let code = text("error");
        let failure = Failure::ALL.into_iter().find(|failure| failure.as_str() == code);
        Err(Failed::of(failure.unwrap_or(Failure::InternalError), text("message"), text("help")))
    })
}

fn texts(of: &Value, names: &[&str]) -> Vec<String> {
    let text = |name: &&str| match &of[*name] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    names.iter().map(text).collect()
}

fn section(found: &Value, key: &str, head: &[&str], names: &[&str]) -> Option<String> {
    let rows = found[key].as_array().filter(|rows| !rows.is_empty())?;
    let rows: Vec<Vec<String>> = rows.iter().map(|row| texts(row, names)).collect();
    Some(table(head, &rows))
}

impl ListArgs {
    fn run(self) -> Result<Found, Failed> {
        let client = Client::new();
        let url = format!("http://{}/api/v1/fences", self.admin);
        let mut found = answered(client.get(&url))?;
        // The directory comes in pages.
        while let Some(after) = found["next"].as_str().map(str::to_owned) {
            let page = answered(client.get(format!("{url}?after={after}")))?;
            if let (Some(all), Some(more)) =
                (found["writers"].as_array_mut(), page["writers"].as_array())
            {
                all.extend(more.iter().cloned());
            }
            found["next"] = page["next"].clone();
        }
        let sections = [
            section(&found, "halted", &["HALTED GROUP", "CAUSE"], &["group", "cause"]),
            section(
                &found,
                "divergences",
                &["DIVERGED NODE", "GROUP", "COMPARED", "PROJECTION", "RESOURCE"],
                &["node", "group", "compared", "projection", "resource"],
            ),
            section(
                &found,
                "writers",
                &["RESOURCE", "KIND", "GROUP", "EPOCH"],
                &["resource", "kind", "group", "epoch"],
            ),
        ];
        let sections: Vec<String> = sections.into_iter().flatten().collect();
        let text = match sections.is_empty() {
            true => "nothing is fenced\n".to_owned(),
            false => sections.join("\n"),
        };
        let document = json!({
            "halted": found["halted"],
            "divergences": found["divergences"],
            "writers": found["writers"],
        });
        Ok(Found::new(document, text))
    }
}

impl ClearArgs {
    fn run(self) -> Result<Found, Failed> {
        let Self { admin, group, reason, confirm } = self;
        if !confirm {
            let plan = format!(
                "the state and the log of group {group} at the node of {admin} would be given up, and come \
                 again from its leader\n"
            );
            let document = json!({ "group": group, "cleared": false });
            let error = Error::PreconditionFailed { what: "nothing was done".to_owned() };
            let wrong = Failed::from(error).helping("to do it, repeat this with --confirm");
            return Ok(Found::new(document, plan).but(Some(wrong)));
        }
        let body = json!({ "group": group, "reason": reason }).to_string();
        let asked = Client::new()
            .post(format!("http://{admin}/api/v1/fences/clear"))
            .header("content-type", "application/json")
            .header("x-palisade-admin", "1")
            .body(body);
        let done = answered(asked)?;
        Ok(Found::new(done, format!("group {group} was made anew at the node of {admin}\n")))
    }
}
