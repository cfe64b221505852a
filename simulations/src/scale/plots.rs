//! How far record and graph were when, in pictures.
