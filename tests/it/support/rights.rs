//! Rights in Kafka, taken away and given back. librdkafka's Rust client has no call for it, so this speaks the protocol.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::service;

/// What a right is about (Kafka's `resource_type`).
#[derive(Debug, Clone, Copy)]
pub(crate) enum Resource<'a> {
    Topic(&'a str),
    Group(&'a str),
    Cluster,
}

/// Kafka's `operation`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Read = 3,
    Write = 4,
    Create = 5,
}

const CREATE: i16 = 30;
const DELETE: i16 = 31;
const LITERAL: i8 = 3;
const ALL: i8 = 2;
const ANY: i8 = 1;
const DENY: i8 = 2;
const ALLOW: i8 = 3;

impl Resource<'_> {
    /// Nobody may do `operation`; all else stays allowed.
    pub(crate) fn deny(self, operation: Operation) {
        self.deny_to("User:*", operation);
    }

    /// The same for one user only.
    pub(crate) fn deny_to(self, user: &str, operation: Operation) {
        let mut body = Body::default();
        body.0.extend(2_i32.to_be_bytes());
        for (user, operation, permission) in [("User:*", ALL, ALLOW), (user, operation as i8, DENY)] {
            body.resource(self).number(LITERAL).text(user).text("*").number(operation).number(permission);
        }
        call(CREATE, &body);
    }

    /// Everybody may do everything, as at first.
    pub(crate) fn allow(self) {
        let mut body = Body::default();
        body.0.extend(1_i32.to_be_bytes());
        body.resource(self).number(LITERAL).null().null().number(ANY).number(ANY);
        call(DELETE, &body);
    }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn resource(&mut self, resource: Resource<'_>) -> &mut Self {
        match resource {
            Resource::Topic(name) => self.number(2).text(name),
            Resource::Group(name) => self.number(3).text(name),
            Resource::Cluster => self.number(4).text("kafka-cluster"),
        }
    }

    fn number(&mut self, number: i8) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend(i16::try_from(text.len()).unwrap().to_be_bytes());
        self.0.extend(text.as_bytes());
        self
    }

    fn null(&mut self) -> &mut Self {
        self.0.extend((-1_i16).to_be_bytes());
        self
    }
}

/// Sends a request in version 1 and makes sure that all of it was done.
fn call(kind: i16, body: &Body) {
    let mut request = [kind, 1].map(i16::to_be_bytes).concat();
    request.extend(7_i32.to_be_bytes());
    let mut client = Body::default();
    client.text("tests");
    request.extend(client.0);
    request.extend(&body.0);
    let mut kafka = TcpStream::connect(service("TEST_KAFKA")).unwrap();
    kafka.write_all(&[&i32::try_from(request.len()).unwrap().to_be_bytes(), request.as_slice()].concat()).unwrap();
    let mut length = [0; 4];
    kafka.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    kafka.read_exact(&mut answer).unwrap();
    // correlation_id, throttle_time, count of results, then of each: error_code, error_message, …
    let results = &answer[12..];
    assert_eq!(results[..2], [0, 0], "Kafka refuses: {}", String::from_utf8_lossy(results));
}
