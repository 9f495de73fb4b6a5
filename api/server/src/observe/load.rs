//! What waits in the node against its bounds, how long its log takes, and whether its state can be read: as of
//! the last look.

use std::fmt::Error;
use std::sync::{Arc, Mutex};

use palisade::{QueueLoad, SYNC_EDGES_US, SyncTimes};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::export::{Series, Shown, one_if, told};
use super::lock;

/// How long syncs took, as a histogram.
struct Syncs(SyncTimes);

impl EncodeMetric for Syncs {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), Error> {
        let seconds = |us: u64| us as f64 / 1e6;
        let edges = SYNC_EDGES_US.map(seconds).into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = edges.zip(self.0.counts).collect();
        let count = self.0.counts.iter().sum();
        encoder.encode_histogram::<NoLabelSet>(seconds(self.0.sum_us), count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[derive(Debug)]
pub(super) struct OfLoad {
    pub(super) shown: Arc<Mutex<Shown>>,
}

type Side = fn(&QueueLoad) -> u64;

impl Collector for OfLoad {
    fn encode(&self, mut to: DescriptorEncoder) -> Result<(), Error> {
        let shown = lock(&self.shown);
        let (load, groups) = (&shown.sample.load, &shown.sample.groups);
        let help = "How long syncs of the log took";
        Series::histogram(&mut to, "log_sync_seconds", help)?.only(&Syncs(load.syncs))?;
        let help = "Batches that wait to be written to the log";
        Series::gauge(&mut to, "log_queued_batches", help)?
            .only(&ConstGauge::new(load.log_batches))?;
        let help = "Segments of the log in which something rotten was found since the start";
        Series::gauge(&mut to, "log_segments_condemned", help)?
            .only(&ConstGauge::new(load.log_segments_condemned))?;
        let help = "1 if a part of the stored state could not be read: the node is to be replaced";
        Series::gauge(&mut to, "state_damaged", help)?.only(&one_if(shown.sample.is_damaged))?;
        let sides: [(&str, &str, &str, &str, Side); 2] = [
            ("queue", "peer_queue_bytes", "group_queue", "What waits in a queue", |queue| {
                queue.held
            }),
            (
                "queue_max",
                "peer_queue_bytes_max",
                "group_queue_max",
                "What may wait in a queue at most",
                |queue| queue.held_max,
            ),
        ];
        for (of_node, of_peers, of_groups, help, side) in sides {
            let mut series = Series::gauge(&mut to, of_node, help)?;
            for queue in &load.queues {
                series.of(&[("queue", queue.queue)], &ConstGauge::new(side(queue)))?;
            }
            let mut series = Series::gauge(&mut to, of_peers, help)?;
            for (node, queue) in &load.peers {
                series.of(&[("node", node.get())], &ConstGauge::new(side(queue)))?;
            }
            let mut series = Series::gauge(&mut to, of_groups, help)?;
            for (group, status) in told(groups) {
                let group = group.id.to_string();
                for queue in &status.queues {
                    let labels = [("group", group.as_str()), ("queue", queue.queue)];
                    series.of(&labels, &ConstGauge::new(side(queue)))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn what_waits_stands_beside_its_bound() {
        let mut shown = Shown::default();
        shown.sample.is_damaged = true;
        shown.sample.load.log_segments_condemned = 2;
        let (held, held_max) = (5, 7);
        shown.sample.load.queues = vec![QueueLoad { queue: "inbox_bytes", held, held_max }];
        let counts = &mut shown.sample.load.syncs.counts;
        (counts[0], counts[1], counts[SYNC_EDGES_US.len()]) = (2, 1, 4);
        let mut registry = Registry::with_prefix("palisade");
        let shown = Arc::new(Mutex::new(shown));
        registry.register_collector(Box::new(OfLoad { shown }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "palisade_state_damaged 1",
            "palisade_log_segments_condemned 2",
            "palisade_queue{queue=\"inbox_bytes\"} 5",
            "palisade_queue_max{queue=\"inbox_bytes\"} 7",
            "palisade_log_sync_seconds_bucket{le=\"0.00005\"} 2",
            "palisade_log_sync_seconds_bucket{le=\"5.0\"} 3",
            "palisade_log_sync_seconds_bucket{le=\"+Inf\"} 7",
            "palisade_log_sync_seconds_count 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
