//! How the platform's tables and its server are read: what hides an execution, in which zone times are, what evidence workers leave,
//! what a crash may lose. On real PostgreSQL, without Kafka where the store alone decides.

mod durability;
mod evidence;
mod hidden;
mod notify;
mod pooler;
mod row_security;
mod time_zones;

use trigger_dispatcher::config::Config;
use trigger_dispatcher::store::postgres::{ClaimTerms, PostgresClaims};
use trigger_dispatcher::store::{Claimed, Claims as _, Database, StoreError, Verdict, migrate};
use uuid::Uuid;

use crate::support::database::TestDatabase;
use crate::support::request::{Held, held, request};
use crate::support::settings::config;

/// A platform's database with one dispatcher that claims.
struct World {
    database: TestDatabase,
    config: Config,
    store: Database,
    terms: ClaimTerms,
    claims: PostgresClaims,
    start: Held,
    next_offset: i64,
}

impl World {
    async fn create() -> Self {
        Self::with(TestDatabase::create().await, |_| ()).await
    }

    /// With other settings than the defaults.
    async fn with(database: TestDatabase, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = config("redis://unused/0", Some(&database));
        set(&mut config);
        let store = Database::new(&config.postgres);
        migrate::migrate(&store).await.unwrap();
        let terms = ClaimTerms::new(&config);
        let mut claims = PostgresClaims::new(store.clone(), terms.clone());
        let start = held(&claims.open(&[0]).await.unwrap()[0]);
        Self { database, config, store, terms, claims, start, next_offset: 0 }
    }

    /// One batch of one record that wants these pipelines, or a ticker's slot of each.
    async fn try_claim(&mut self, pipelines: &[Uuid], ticker: &str) -> Result<(Vec<Uuid>, Claimed), StoreError> {
        let mut request = request(self.start, self.next_offset, pipelines);
        for wanted in &mut request.wanted {
            ticker.clone_into(&mut wanted.ticker);
        }
        match self.claims.claim(&request).await? {
            Verdict::Claimed(claimed) => {
                self.next_offset += 1;
                let won = claimed.won.iter().map(|won| request.wanted[*won].text.trigger_id).collect();
                self.claims.confirm(request.publication_id);
                self.claims.flush().await?;
                Ok((won, claimed))
            }
            other => panic!("expected a decision, got {other:?}"),
        }
    }

    /// The triggers that were won; the broker has them.
    async fn claim(&mut self, pipelines: &[Uuid]) -> Vec<Uuid> {
        self.try_claim(pipelines, "").await.unwrap().0
    }

    /// Whether a signal starts the pipeline now.
    async fn starts(&mut self, pipeline: Uuid) -> bool {
        !self.claim(&[pipeline]).await.is_empty()
    }

    /// Claims with sessions of their own, as another role or after a change of settings.
    async fn anew(&mut self, set: impl FnOnce(&mut Config)) -> Result<(), StoreError> {
        set(&mut self.config);
        self.store = Database::new(&self.config.postgres);
        self.terms = ClaimTerms::new(&self.config);
        self.claims = PostgresClaims::new(self.store.clone(), self.terms.clone());
        self.start = held(&self.claims.open(&[0]).await?[0]);
        Ok(())
    }
}

fn pipelines<const N: usize>() -> [Uuid; N] {
    let mut ids = [(); N].map(|()| Uuid::new_v4());
    ids.sort_unstable();
    ids
}
