//! Each fault of each dependency: nothing is lost, nothing comes twice, the group is kept, and it is over within seconds.

mod kafka;
mod postgres;
mod retention;
mod shutdown;
mod watchdog;
