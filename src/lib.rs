//! Trigger dispatcher.
