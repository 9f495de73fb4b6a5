//! Goes through the table: for each row ours and theirs in turn, so that what else the machine does falls on
//! both alike.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Args;
use crate::embedded::{Embedded, OURS};
use crate::goals::{Curve, Goals, Peer, Row};
use crate::load::{Length, Load, Run, Way, Work};
use crate::parties::Ours;
use crate::party::{Party, measured, start};
use crate::report::{Conditions, Drawn, Line, Point, Report, print};
use crate::server::{Unavailable, text};

/// Runs what was asked for, and tells it.
pub(crate) async fn run(args: &Args) -> Result<(), String> {
    let goals = Goals::read()?;
    let temporary = tempfile::tempdir().map_err(text)?;
    let dir = args.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    fs::create_dir_all(&dir).map_err(text)?;
    // A peer that is another user comes through it to its own data.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).map_err(text)?;
    let length = match args.requests {
        Some(requests) => Length::Requests(requests),
        None => Length::Milliseconds(1000 * args.seconds),
    };
    let like = Load {
        work: Work::Put,
        way: Way::InProcess,
        in_flight: 1,
        bytes: 0,
        length,
        keys: args.keys,
    };
    let mut stage = Stage { dir: &dir, like, runs: args.runs, standing: None };
    let mut report = Report::new(Conditions::now(args).await);
    let done = go_through(args, &goals, &mut stage, &mut report).await;
    stage.clear().await;
    // What was measured until something failed is not lost with it.
    print(&goals, &report);
    if let Some(out) = &args.out {
        report.write(out, &goals)?;
    }
    done
}

async fn go_through(
    args: &Args,
    goals: &Goals,
    stage: &mut Stage<'_>,
    report: &mut Report,
) -> Result<(), String> {
    let is_wanted = |about: &str| {
        args.only.is_empty() || args.only.iter().any(|only| about.contains(only.as_str()))
    };
    let rows: Vec<&Row> = goals
        .row
        .iter()
        .filter(|row| is_wanted(&format!("{}, {}", row.title(), row.against.name())))
        .collect();
    // In the order of the table, but all that is against one peer while it is up.
    let mut peers: Vec<Peer> = Vec::new();
    for row in &rows {
        if !peers.contains(&row.against) {
            peers.push(row.against);
        }
    }
    for peer in peers {
        let of_peer = rows.iter().copied().filter(|row| row.against == peer);
        let (killed, loaded): (Vec<&Row>, _) = of_peer.partition(|row| row.work == Work::Failover);
        if !loaded.is_empty() {
            report.lines.extend(stage.rows(peer, &loaded).await?);
        }
        for row in killed {
            report.lines.push(stage.failover(row).await?);
        }
    }
    let curves = goals.curve.iter().filter(|curve| !args.no_curves && is_wanted(&curve.name));
    for curve in curves {
        report.drawn.push(stage.curve(curve).await?);
    }
    Ok(())
}

/// Who is up.
struct Stage<'a> {
    dir: &'a Path,
    like: Load,
    runs: u64,
    /// Ours, and whether it is the log alone. It stays up from one peer to the next.
    standing: Option<(bool, Box<dyn Party>)>,
}

impl Stage<'_> {
    /// Ours, in the kind that a way asks for.
    async fn ours(&mut self, way: Way) -> Result<&mut dyn Party, String> {
        let is_log = way == Way::Wal;
        if self.standing.as_ref().is_some_and(|(standing, _)| *standing != is_log) {
            self.clear().await;
        }
        if self.standing.is_none() {
            let ours: Box<dyn Party> = match is_log {
                true => Box::new(Embedded::start(OURS, self.dir).await?),
                false => Box::new(Ours::start(&self.dir.join("ours")).await?),
            };
            self.standing = Some((is_log, ours));
        }
        let (_, ours) = self.standing.as_mut().expect("it was just started");
        Ok(&mut **ours)
    }

    async fn clear(&mut self) {
        if let Some((_, ours)) = self.standing.take() {
            ours.stop().await;
            for name in ["ours", OURS] {
                // The next is made anew; whether this one is there depends on what was measured.
                let _ = fs::remove_dir_all(self.dir.join(name));
            }
        }
    }

    /// Starts a peer in a folder of its own.
    async fn peer(&self, peer: Peer) -> Result<Box<dyn Party>, Unavailable> {
        let dir = self.dir.join(format!("peer-{}", peer.name()));
        fs::create_dir_all(&dir).map_err(text)?;
        start(peer, &dir).await
    }

    /// Its data makes room for the next one's.
    async fn end(&self, peer: Peer, party: Option<Box<dyn Party>>) -> Result<(), String> {
        if let Some(party) = party {
            party.stop().await;
        }
        fs::remove_dir_all(self.dir.join(format!("peer-{}", peer.name()))).map_err(text)
    }

    /// Each run has nodes of its own: one of them is killed.
    async fn failover(&mut self, row: &Row) -> Result<Line, String> {
        eprintln!("{}, beside {}", row.title(), row.against.name());
        self.clear().await;
        let (mut own, mut their) = (Vec::new(), Vec::new());
        for _ in 0..self.runs {
            let load = row.load(&self.like);
            own.push(Run::of_silence(self.ours(row.ours).await?.failover(&load).await?));
            self.clear().await;
            let theirs = match self.peer(row.against).await {
                Ok(mut party) => {
                    let silence = party.failover(&load).await;
                    self.end(row.against, Some(party)).await?;
                    silence
                }
                Err(unavailable) => {
                    self.end(row.against, None).await?;
                    Err(unavailable.why())
                }
            };
            match theirs {
                Ok(silence) => their.push(Run::of_silence(silence)),
                Err(error) => return Ok(Line::not_measured(row, error)),
            }
        }
        Ok(Line::measured(row, own, their))
    }

    async fn rows(&mut self, peer: Peer, rows: &[&Row]) -> Result<Vec<Line>, String> {
        let mut theirs = match self.peer(peer).await {
            Ok(party) => party,
            Err(unavailable) => {
                eprintln!("{}: {}", peer.name(), unavailable.why());
                self.end(peer, None).await?;
                let why = unavailable.why();
                return Ok(rows.iter().map(|row| Line::not_measured(row, why.clone())).collect());
            }
        };
        let mut lines = Vec::new();
        for row in rows {
            eprintln!("{}, beside {}", row.title(), peer.name());
            let (mut own, mut their) = (Vec::new(), Vec::new());
            let mut failed = None;
            for turn in 0..=self.runs {
                let (like, dir) = (self.like, self.dir);
                let ours = self.ours(row.ours).await?;
                // What we cannot do ends it all; what they cannot is told.
                own.push(measured(ours, &row.load(&like), dir).await?);
                match measured(&mut *theirs, &row.load_against(&like), dir).await {
                    Ok(run) => their.push(run),
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                }
                if turn == 0 {
                    // Code is compiled and files are made in a first run, at ZooKeeper most of all.
                    (own, their) = (Vec::new(), Vec::new());
                }
            }
            lines.push(match failed {
                None => Line::measured(row, own, their),
                Some(error) => Line::not_measured(row, error),
            });
        }
        self.end(peer, Some(theirs)).await?;
        Ok(lines)
    }

    /// Every party at every point, one after the other, as often as there are runs.
    async fn curve(&mut self, curve: &Curve) -> Result<Drawn, String> {
        eprintln!("curve {}", curve.name);
        let mut points = Vec::new();
        let load = |like: &Load, way, in_flight| Load {
            work: curve.work,
            bytes: curve.bytes,
            way,
            in_flight,
            ..*like
        };
        let (like, runs, dir) = (self.like, self.runs, self.dir);
        for way in &curve.ours {
            for in_flight in &curve.in_flight {
                let ours = self.ours(*way).await?;
                let load = load(&like, *way, *in_flight);
                points.push(Point::of(
                    ours_name(*way),
                    *in_flight,
                    many(ours, &load, runs, dir).await?,
                ));
            }
        }
        let mut absent = BTreeSet::new();
        for peer in &curve.against {
            let mut theirs = match self.peer(*peer).await {
                Ok(party) => Some(party),
                Err(unavailable) => {
                    absent.insert(format!("{}: {}", peer.name(), unavailable.why()));
                    None
                }
            };
            if let Some(theirs) = &mut theirs {
                for in_flight in &curve.in_flight {
                    let load = load(&like, Way::InProcess, *in_flight);
                    let runs = many(&mut **theirs, &load, runs, dir).await?;
                    points.push(Point::of(peer.name(), *in_flight, runs));
                }
            }
            self.end(*peer, theirs).await?;
        }
        Ok(Drawn { name: curve.name.clone(), points, absent })
    }
}

fn ours_name(way: Way) -> &'static str {
    match way {
        Way::InProcess => "palisade, in process",
        Way::Unary => "palisade, gRPC unary",
        Way::Stream => "palisade, gRPC stream",
        Way::Batched => "palisade, gRPC batched stream",
        Way::Wal => "palisade-wal",
    }
}

async fn many(
    party: &mut dyn Party,
    load: &Load,
    runs: u64,
    dir: &Path,
) -> Result<Vec<Run>, String> {
    let mut all = Vec::new();
    // As for rows, a first one does not count.
    measured(party, load, dir).await?;
    for _ in 0..runs {
        all.push(measured(party, load, dir).await?);
    }
    Ok(all)
}
