//! Tests on real services, which `scripts/services env` names. One binary: services are shared, names are not.
#![expect(missing_docs, reason = "tests are sentences")]

mod support;
