//! Each fault of each dependency: the service waits, keeps its place in the group, loses and doubles nothing, says so once, and
//! it is over within seconds.

mod flapping;
mod kafka;
mod postgres;
mod rabbitmq;
mod redis;
mod result_backend;
mod retention;
mod shutdown;
mod trial;
mod watchdog;
