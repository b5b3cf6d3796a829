//! A batch of one record that wants whole pipelines, for tests of the store alone.

use trigger_dispatcher::intake::{PartitionSpan, Start};
use trigger_dispatcher::rules::PartitionCounts;
use trigger_dispatcher::store::{ClaimRequest, Wanted};
use trigger_dispatcher::tasks::{List, Pieces, TriggerText, trigger_id};
use uuid::Uuid;

/// What a task is told, with characters that not every way carries.
pub(crate) fn kwargs(pipeline_id: &Uuid, offset: i64) -> String {
    format!(r#"{{"pipeline_id": "{pipeline_id}", "text": "Zürich \"🚀\" {offset}"}}"#)
}

/// What a request needs of a [`Start`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) partition: i32,
    pub(crate) epoch: i64,
}

pub(crate) fn held(start: &Start) -> Held {
    Held { partition: start.partition, epoch: start.epoch }
}

pub(crate) fn request(start: Held, offset: i64, pipelines: &[Uuid]) -> ClaimRequest {
    let Held { partition, epoch } = start;
    let span =
        PartitionSpan { partition, epoch, first_offset: offset, next_offset: offset + 1, consumed: 1, invalid: 0, stale: 0 };
    let signal_id = format!("signal {partition} {offset}");
    let wanted = |pipeline_id: &Uuid| Wanted {
        text: TriggerText {
            trigger_id: trigger_id(*pipeline_id, "", &signal_id),
            signal_id: signal_id.as_str().into(),
            symbol: "AAPL".into(),
            head: kwargs(pipeline_id, offset),
            pieces: List::default(),
        },
        pipeline_id: *pipeline_id,
        ticker: String::new(),
        partition,
        offset,
        record_time_ms: trigger_dispatcher::clock::unix_ms(),
        shared: false,
    };
    ClaimRequest {
        publication_id: Uuid::new_v4(),
        spans: vec![(span, PartitionCounts::default())],
        wanted: pipelines.iter().map(wanted).collect(),
        pieces: Pieces::default(),
        goes_on: false,
    }
}
