//! The closed loop: so many requests under way, each followed by the next when it is answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use palisade_client::proto::directory::v1::Spec;
use palisade_client::{Client, Log, Map};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::sample::Sample;
use crate::command::client_args::ClientArgs;
use crate::command::failed::Failed;
use crate::command::placement::everywhere;
use crate::command::progress::Progress;

const SCHEMA: &str = "bench.v1";
const LOG: &str = "bench/log";
const MAP: &str = "bench/map";
/// Numbered writes of one client that are under way, as a group allows them.
const WRITES_MAX: u64 = 64;
/// Between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workload {
    Append,
    Stream,
    Put,
    Get,
}

impl Workload {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Stream => "stream",
            Self::Put => "put",
            Self::Get => "get",
        }
    }
}

/// When it ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// After a tenth of it that is not counted, and all of it.
    Time(Duration),
    /// After so many requests.
    Operations(u64),
}

#[derive(Clone, Debug)]
pub(super) struct Load {
    pub(super) workload: Workload,
    pub(super) in_flight: u64,
    pub(super) payload_bytes: usize,
    pub(super) keys: u64,
    pub(super) until: Until,
}

/// Which requests are made and which of them count; shared by all that make them.
struct Course {
    /// Of the next request.
    number: AtomicU64,
    counted_from: Instant,
    until: Until,
}

impl Course {
    fn new(until: Until) -> Self {
        let warming = match until {
            Until::Time(length) => length / 10,
            Until::Operations(_) => Duration::ZERO,
        };
        Self { number: AtomicU64::new(0), counted_from: Instant::now() + warming, until }
    }

    /// The number of the next request, unless it is over.
    fn next(&self, now: Instant) -> Option<u64> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let more = match self.until {
            Until::Time(length) => now < self.counted_from + length,
            Until::Operations(operations) => number < operations,
        };
        more.then_some(number)
    }

    /// Counts an answer that came now, unless it came too early or too late.
    fn count(
        &self,
        sample: &mut Sample,
        begun: Instant,
        answer: Result<(), palisade_client::Error>,
    ) {
        let now = Instant::now();
        let is_late = match self.until {
            Until::Time(length) => self.counted_from + length <= now,
            Until::Operations(_) => false,
        };
        if begun < self.counted_from || is_late {
            return;
        }
        match answer {
            Ok(()) => sample.answered(now - self.counted_from, now - begun),
            Err(error) => sample.failed(&error.failure().kind),
        }
        sample.length = now - self.counted_from;
    }

    /// How far it is, of a thousand.
    fn so_far(&self) -> u64 {
        match self.until {
            Until::Time(length) => {
                let left = (self.counted_from + length).saturating_duration_since(Instant::now());
                1000 - (1000 * left.as_millis() / length.as_millis().max(1)).min(1000) as u64
            }
            Until::Operations(operations) => {
                1000 * self.number.load(Ordering::Relaxed).min(operations) / operations.max(1)
            }
        }
    }
}

/// What one request is made with.
#[derive(Clone)]
struct Resources {
    log: Log<Bytes>,
    map: Map<String, Bytes>,
}

impl Resources {
    fn of(client: &Client) -> Self {
        Self { log: client.log(LOG, SCHEMA), map: client.map(MAP, SCHEMA) }
    }

    async fn request(
        &self,
        load: &Load,
        number: u64,
        value: Bytes,
    ) -> Result<(), palisade_client::Error> {
        let key = || format!("key-{}", number % load.keys);
        match load.workload {
            Workload::Append | Workload::Stream => self.log.append(&[value]).await.map(|_| ()),
            Workload::Put => self.map.put(&key(), &value).await.map(|_| ()),
            Workload::Get => self.map.get(&key()).await.map(|_| ()),
        }
    }
}

pub(super) async fn run(load: &Load, client: &ClientArgs) -> Result<Sample, Failed> {
    let value = Bytes::from(vec![b'x'; load.payload_bytes]);
    let opener = client.connect()?;
    let spec = Spec { placement: everywhere(&opener).await?, ..Default::default() };
    let first = Resources::of(&opener);
    match load.workload {
        Workload::Append | Workload::Stream => first.log.open_as(spec).await?,
        Workload::Put | Workload::Get => first.map.open_as(spec).await?,
    }
    if load.workload == Workload::Get {
        fill(load, &first, &value).await?;
    }
    let course = Arc::new(Course::new(load.until));
    let mut tasks = JoinSet::new();
    if load.workload == Workload::Stream {
        let (course, load) = (Arc::clone(&course), load.clone());
        tasks.spawn(async move { stream(&first.log, &load, &course, value).await });
    } else {
        let mut resources = first;
        for at in 0..load.in_flight {
            if at > 0 && at.is_multiple_of(WRITES_MAX) {
                resources = Resources::of(&client.connect()?);
            }
            let (course, load) = (Arc::clone(&course), load.clone());
            let (resources, value) = (resources.clone(), value.clone());
            tasks.spawn(async move { Ok(one(&resources, &load, &course, value).await) });
        }
    }
    let progress = Progress::of(1000, "bench");
    let mut all = Sample::new();
    loop {
        tokio::select! {
            done = tasks.join_next() => match done {
                Some(Ok(sample)) => all.add(sample?),
                Some(Err(error)) => {
                    let what = format!("a caller has stopped: {error}");
                    return Err(palisade::Error::InternalError { what }.into());
                }
                None => return Ok(all),
            },
            () = sleep(LOOK_EVERY) => progress.is_at(course.so_far()),
        }
    }
}

/// Sets every key, so that there is something to get.
async fn fill(load: &Load, resources: &Resources, value: &Bytes) -> Result<(), Failed> {
    let put = Load { workload: Workload::Put, ..load.clone() };
    let course = Arc::new(Course::new(Until::Operations(load.keys)));
    let mut tasks = JoinSet::new();
    for _ in 0..WRITES_MAX {
        let (course, put) = (Arc::clone(&course), put.clone());
        let (resources, value) = (resources.clone(), value.clone());
        tasks.spawn(async move {
            while let Some(number) = course.next(Instant::now()) {
                resources.request(&put, number, value.clone()).await?;
            }
            Ok::<_, palisade_client::Error>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| palisade::Error::InternalError { what: error.to_string() })??;
    }
    Ok(())
}

/// One caller, with one request under way.
async fn one(resources: &Resources, load: &Load, course: &Course, value: Bytes) -> Sample {
    let mut sample = Sample::new();
    loop {
        let begun = Instant::now();
        let Some(number) = course.next(begun) else { return sample };
        let answer = resources.request(load, number, value.clone()).await;
        course.count(&mut sample, begun, answer);
    }
}

/// One stream, with as many messages under way.
async fn stream(
    log: &Log<Bytes>,
    load: &Load,
    course: &Course,
    value: Bytes,
) -> Result<Sample, Failed> {
    let mut sample = Sample::new();
    let mut appends = log.appends().await?;
    let mut begun = VecDeque::new();
    let mut is_over = false;
    loop {
        while !is_over && (begun.len() as u64) < load.in_flight {
            let now = Instant::now();
            if course.next(now).is_none() {
                is_over = true;
                break;
            }
            appends.send(std::slice::from_ref(&value)).await?;
            begun.push_back(now);
        }
        let Some(oldest) = begun.pop_front() else { return Ok(sample) };
        // A stream ends with the first that fails.
        appends.next().await?;
        course.count(&mut sample, oldest, Ok(()));
    }
}
