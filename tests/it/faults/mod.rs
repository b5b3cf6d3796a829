//! Each fault of each dependency: the service waits, keeps its place in the group, loses nothing, and says so once.

mod rabbitmq;
mod redis;
mod result_backend;
mod trial;
