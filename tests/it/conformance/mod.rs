//! One suite for each seam, run on the product's implementation and on its twin in memory: what one does, the other does.

mod claims;
mod source;
mod sweeps;
mod task_queue;
