//! The holder's lease, as far as it is the worker's: while it is over, nothing is added or renewed.

use super::{Floating, Worker, explain};

impl Worker {
    pub(super) fn check_lease(&self, floating: &Floating) -> Result<(), String> {
        match self.lease.is_over() {
            None => Ok(()),
            Some(over) => Err(format!("cannot add {floating}: {over}")),
        }
    }

    /// Gives everything up: the lease was over.
    pub(super) async fn give_up(&mut self) {
        let owned: Vec<Floating> = self.owned.keys().cloned().collect();
        for floating in owned {
            self.drop_silently(&floating).await;
        }
        self.lease.begin();
    }

    pub(super) async fn drop_silently(&mut self, floating: &Floating) {
        self.forget(floating);
        if let Err(error) = self.delete(floating).await {
            tracing::warn!("{}", explain("remove", floating, &error));
        }
    }
}
