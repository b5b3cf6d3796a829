//! A message with gaps. Most of a message is the same for all tasks of a configuration, so it is made whole once, as JSON, and
//! cut where tasks differ: what is filled in later has the very shape that was serialized.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::Value;
use uuid::Uuid;

use super::{Encoder, Task, shown};

/// What stands where tasks differ while a message is being cut. Random, so that nothing in a configuration looks like it.
pub(super) struct Gaps {
    pub(super) id: String,
    pub(super) expires: String,
    pub(super) kwargs: String,
    pub(super) body: String,
}

/// What goes into a gap.
#[derive(Debug, Clone, Copy)]
enum Part {
    Id,
    Expires,
    Kwargs,
    Body,
}

/// A message with gaps.
#[derive(Debug, Clone, Default)]
pub(super) struct Template {
    /// What stands before each gap, and what goes into it.
    gaps: Vec<(String, Part)>,
    /// What stands after the last one.
    end: String,
}

impl Template {
    /// Cuts the message that is made with these gaps.
    pub(super) fn cut(message: impl FnOnce(&Gaps) -> Value) -> Self {
        let random = || Uuid::new_v4().simple().to_string();
        let gaps = Gaps { id: random(), expires: random(), kwargs: random(), body: random() };
        let mut rest = message(&gaps).to_string();
        let parts =
            [(&gaps.id, Part::Id), (&gaps.expires, Part::Expires), (&gaps.kwargs, Part::Kwargs), (&gaps.body, Part::Body)];
        let mut cut = Self::default();
        while let Some((at, mark, part)) =
            parts.iter().filter_map(|(mark, part)| Some((rest.find(*mark)?, *mark, *part))).min_by_key(|(at, ..)| *at)
        {
            let after = rest.split_off(at + mark.len());
            rest.truncate(at);
            cut.gaps.push((std::mem::replace(&mut rest, after), part));
        }
        cut.end = rest;
        cut
    }

    /// The message of a task.
    pub(super) fn fill(&self, task: &Task, expires: &str) -> String {
        let mut buffer = Uuid::encode_buffer();
        let id = &*task.trigger_id.as_hyphenated().encode_lower(&mut buffer);
        let mut message = String::with_capacity(1_024 + task.kwargs.len() * 3);
        for (before, part) in &self.gaps {
            message.push_str(before);
            match part {
                Part::Id => message.push_str(id),
                Part::Expires => message.push_str(expires),
                Part::Kwargs => push_escaped(&mut message, shown(&task.kwargs)),
                Part::Body => BASE64.encode_string(Encoder::body(task), &mut message),
            }
        }
        message.push_str(&self.end);
        message
    }
}

/// A text as it stands within quotes in JSON, as `serde_json` writes it.
fn push_escaped(json: &mut String, text: &str) {
    let quoted = serde_json::to_string(text).expect("a text always has a JSON form");
    json.push_str(&quoted[1..quoted.len() - 1]);
}
