//! The broker of a run: which of the two it is, where it is, and how much waits in it.

use anyhow::Context as _;
use redis::Commands as _;
use url::Url;

use crate::amqp::Session;
use crate::options::Arm;

/// Where tasks go.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) arm: Arm,
    pub(crate) url: Url,
}

impl Broker {
    /// Its name in `scripts/services`.
    pub(crate) fn service(&self) -> &'static str {
        match self.arm {
            Arm::Redis => "redis",
            Arm::Rabbitmq => "rabbitmq",
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        Ok(format!("127.0.0.1:{}", self.url.port().context("the broker's address has no port")?))
    }

    /// What the dispatchers are told: the same broker behind another port.
    pub(crate) fn behind(&self, port: u16) -> anyhow::Result<String> {
        let mut url = self.url.clone();
        url.set_port(Some(port)).map_err(|()| anyhow::anyhow!("the broker's address takes no port"))?;
        Ok(url.into())
    }

    /// What workers do before anything can be published: Redis makes a list by itself, RabbitMQ needs its queue declared.
    pub(crate) fn declare(&self, queue: &str) -> anyhow::Result<()> {
        match self.arm {
            Arm::Redis => Ok(()),
            Arm::Rabbitmq => self.waiting(queue).map(|_| ()),
        }
    }

    /// Messages that nobody has taken yet.
    pub(crate) fn waiting(&self, queue: &str) -> anyhow::Result<i64> {
        match self.arm {
            Arm::Redis => Ok(redis::Client::open(self.url.as_str())?.get_connection()?.llen(queue)?),
            Arm::Rabbitmq => {
                let session = Session::open(self.url.as_str())?;
                let waiting = session.declare(queue)?;
                session.close()?;
                Ok(waiting.into())
            }
        }
    }
}
