//! A process of a peer, or of ours: started, spoken to in lines, and stopped by its number.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long one is waited for that was asked to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Of what it said, how much is repeated when it fails.
const SAID_BYTES_MAX: usize = 2000;

/// Why a peer is not measured.
#[derive(Debug)]
pub(crate) enum Unavailable {
    /// Its program is not on this machine.
    NotInstalled(String),
    /// It did not come up.
    Failed(String),
}

impl Unavailable {
    /// For people.
    pub(crate) fn why(&self) -> String {
        match self {
            Self::NotInstalled(program) => {
                format!("not to be had here: {program} is not installed (.ci/setup peers)")
            }
            Self::Failed(why) => format!("did not come up: {why}"),
        }
    }
}

impl From<String> for Unavailable {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// For errors that are told to people.
pub(crate) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A running process. Killed when dropped, and by the kernel when this process ends in whatever way.
pub(crate) struct Server {
    name: String,
    child: Child,
    said: PathBuf,
}

/// What is started.
pub(crate) struct Program<'a> {
    /// A name on the path, or a file.
    pub(crate) at: String,
    pub(crate) args: Vec<String>,
    /// As whom, where it refuses to be root.
    pub(crate) user: Option<&'a str>,
}

impl Program<'_> {
    /// The file of it, if it is installed.
    pub(crate) fn file(&self) -> Result<PathBuf, Unavailable> {
        found(&self.at).ok_or_else(|| Unavailable::NotInstalled(self.at.clone()))
    }

    fn command(&self) -> Result<Command, Unavailable> {
        let program = self.file()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some(user) = self.user.filter(|_| is_root()) {
            command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
        }
        command.arg(program).args(&self.args).kill_on_drop(true);
        Ok(command)
    }
}

/// The file of a program that is named, or that is given as one.
pub(crate) fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').filter(|_| !name.contains('/'));
    let files = folders.map(|folder| Path::new(folder).join(name));
    let given = name.contains('/').then(|| PathBuf::from(name));
    files.chain(given).find(|file| file.is_file())
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|of_this| of_this.uid() == 0)
}

/// Gives a folder to a user who is not root.
pub(crate) async fn give(dir: &Path, user: &str) -> Result<(), String> {
    if !is_root() {
        return Ok(());
    }
    let done = Command::new("chown").arg(user).arg(dir).status().await.map_err(text)?;
    if done.success() { Ok(()) } else { Err(format!("chown {user} {}: {done}", dir.display())) }
}

/// Runs a program to its end.
pub(crate) async fn run(program: &Program<'_>) -> Result<(), Unavailable> {
    let output = program.command()?.stdin(Stdio::null()).output().await.map_err(text)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(Unavailable::Failed(format!("{}: {said}", program.at)))
}

/// The first line that a program says of its version.
pub(crate) async fn version(name: &str) -> String {
    let Some(program) = found(name) else { return "not installed".to_owned() };
    match Command::new(program).arg("--version").stdin(Stdio::null()).output().await {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            said.lines().next().unwrap_or_default().to_owned()
        }
        Err(error) => error.to_string(),
    }
}

impl Server {
    /// Starts a process. What it says goes to a file beside its data.
    pub(crate) fn start(
        name: &str,
        dir: &Path,
        program: &Program<'_>,
    ) -> Result<Self, Unavailable> {
        let said = dir.join(format!("{name}.said"));
        let file = File::create(&said).map_err(text)?;
        let mut command = program.command()?;
        command.stdin(Stdio::null()).stdout(file.try_clone().map_err(text)?).stderr(file);
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { name: name.to_owned(), child, said })
    }

    /// Its number, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// That it still runs, or what it said last.
    pub(crate) fn is_up(&mut self) -> Result<(), String> {
        match self.child.try_wait().map_err(text)? {
            None => Ok(()),
            Some(status) => {
                let said = fs::read(&self.said).unwrap_or_default();
                let last = &said[said.len().saturating_sub(SAID_BYTES_MAX)..];
                Err(format!("{} ended, {status}: {}", self.name, String::from_utf8_lossy(last)))
            }
        }
    }

    /// Ends it at once, with SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(text)
    }

    /// Asks it to end, and ends it if it does not.
    pub(crate) async fn stop(mut self) {
        stop(&mut self.child).await;
    }
}

async fn stop(child: &mut Child) {
    let Some(process) = child.id() else { return };
    let _ = Command::new("kill").args(["-TERM", &process.to_string()]).status().await;
    if timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Waits for something that comes up with these servers, and looks again every 100 ms.
pub(crate) async fn until_up<T>(
    servers: &mut [Server],
    within: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, Unavailable> {
    let end = tokio::time::Instant::now() + within;
    loop {
        let found = match timeout(within, look()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => error,
            Err(_) => "no answer".to_owned(),
        };
        for server in &mut *servers {
            server.is_up()?;
        }
        if end < tokio::time::Instant::now() {
            return Err(Unavailable::Failed(format!("not up after {within:?}: {found}")));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The numbers of some processes.
pub(crate) fn processes(servers: &[Server]) -> Vec<u32> {
    servers.iter().filter_map(Server::process).collect()
}

/// Stops some processes.
pub(crate) async fn stop_all(servers: Vec<Server>) {
    for server in servers {
        server.stop().await;
    }
}

/// A process of this program, asked in lines of JSON and answering in them.
pub(crate) struct Talker {
    name: String,
    child: Child,
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Talker {
    /// Starts one. What goes wrong there is said on this process's standard error.
    pub(crate) fn start(args: &[String]) -> Result<Self, String> {
        let this = std::env::current_exe().map_err(text)?;
        let this = this.to_str().ok_or("the program's own path is not UTF-8")?;
        let program = Program { at: this.to_owned(), args: args.to_vec(), user: None };
        let mut command = program.command().map_err(|unavailable| unavailable.why())?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(text)?;
        let questions = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Ok(Self { name: args.join(" "), child, questions, answers })
    }

    /// Its number, while it runs.
    pub(crate) fn process(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it at once, with SIGKILL.
    pub(crate) async fn kill(&mut self) -> Result<(), String> {
        self.child.kill().await.map_err(text)
    }

    /// The next line that it says.
    pub(crate) async fn hear<A: DeserializeOwned>(&mut self) -> Result<A, String> {
        match self.answers.next_line().await.map_err(text)? {
            Some(line) => {
                let answer: Result<A, String> = serde_json::from_str(&line).map_err(text)?;
                answer.map_err(|error| format!("{}: {error}", self.name))
            }
            None => Err(format!("{} ended", self.name)),
        }
    }

    /// Asks, and waits for the answer.
    pub(crate) async fn ask<A: DeserializeOwned>(
        &mut self,
        question: &impl Serialize,
    ) -> Result<A, String> {
        let mut line = serde_json::to_string(question).map_err(text)?;
        line.push('\n');
        self.questions.write_all(line.as_bytes()).await.map_err(text)?;
        self.hear().await
    }

    /// Lets it end, which it does when nothing more is asked.
    pub(crate) async fn stop(mut self) {
        drop(self.questions);
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            stop(&mut self.child).await;
        }
    }
}

/// The other side: answers one line.
pub(crate) fn answer(answer: Result<impl Serialize, String>) -> Result<(), String> {
    use std::io::Write;
    let line = serde_json::to_string(&answer).map_err(text)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_ends_is_told_with_what_it_said() {
        let dir = tempfile::tempdir().unwrap();
        let args = vec!["-c".to_owned(), "echo no such port >&2; exit 3".to_owned()];
        let program = Program { at: "sh".to_owned(), args, user: None };
        let mut servers = vec![Server::start("a", dir.path(), &program).unwrap()];
        let never = async || Err::<(), _>("not yet".to_owned());
        let failed = until_up(&mut servers, Duration::from_secs(60), never).await.unwrap_err();
        assert!(failed.why().contains("no such port"), "{}", failed.why());
        let absent = Program { at: "no-such-program".to_owned(), args: Vec::new(), user: None };
        let absent = Server::start("b", dir.path(), &absent).map(|_| ()).unwrap_err();
        assert!(absent.why().starts_with("not to be had here"), "{}", absent.why());
    }

    #[tokio::test]
    async fn one_that_runs_is_stopped_by_its_number() {
        let dir = tempfile::tempdir().unwrap();
        let program = Program { at: "sleep".to_owned(), args: vec!["600".to_owned()], user: None };
        let mut server = Server::start("a", dir.path(), &program).unwrap();
        server.is_up().unwrap();
        let process = server.process().unwrap();
        server.stop().await;
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }
}
