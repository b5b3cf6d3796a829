//! From the start of the process to its first partition, and to its first task: a topic with signals is there already.

use std::time::Duration;

use serde_json::json;

use crate::clock::{now, wait_closely};
use crate::instance::Setting;
use crate::kafka::Preload;
use crate::platform::{Platform, Shape};
use crate::queue::{self, List};
use crate::results::round;
use crate::suite::{Bench, Case, Tell, name};

use super::drained::Rival;

pub(crate) struct Startup {
    pub(crate) variant: String,
    pub(crate) rival: Rival,
    pub(crate) preload: Preload,
    pub(crate) shape: Shape,
}

impl Case for Startup {
    fn arm(&self) -> &'static str {
        "startup"
    }

    fn title(&self) -> String {
        self.variant.clone()
    }

    fn measure(&self, bench: &mut Bench, tell: Tell<'_>) -> anyhow::Result<()> {
        let subject = self.rival.subject(&self.variant, bench)?;
        let services = bench.services.clone();
        let (topic, name) = (bench.topic(&self.preload)?, name());
        let mut platform = Platform::create(&services, &name, &self.shape, &subject.migrate)?;
        let _list = List { services: &services, name: &name };
        let setting = Setting::new(&services, &platform, topic, &name, &subject);
        let began = now();
        let mut instance = setting.start()?;
        instance.wait_ready(&mut platform, 1)?;
        let ready = now() - began;
        wait_closely("the first task", Duration::from_secs(60), Duration::from_millis(1), || {
            instance.check()?;
            Ok((queue::len(&services, &name)? > 0).then_some(()))
        })?;
        let first = now() - began;
        instance.stop()?;
        let figures = json!({
            "parameters": {"preload": self.preload, "shape": self.shape},
            "ready_ms": round(ready.as_secs_f64() * 1e3, 0),
            "first_task_ms": round(first.as_secs_f64() * 1e3, 0),
        });
        tell(&self.variant, figures)
    }
}
