// SPDX-License-Identifier: GPL-2.0

//! Frames are followed the same at every split.

#[test]
fn same_outcome_at_every_split() {
    assert_eq!(
        squall::frame_cases::check().map(|count| count > 10),
        Ok(true)
    );
}
