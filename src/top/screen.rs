//! The terminal: draws what is watched, and does what keys say.

use std::{
    io,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    text::Text,
    widgets::Paragraph,
};

use crate::{
    overview::Overview,
    top::{
        source::Source,
        view::{self, Choices},
        watched::Watched,
    },
};

/// How often keys and answers are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// How long an answer may be late before the screen says that weir is gone.
const LATE: Duration = Duration::from_secs(3);

/// Shows what weir says until a key ends it. The terminal is as before then.
pub fn show(source: &Source, watched: Watched, interval: Duration) -> io::Result<()> {
    let answers = ask_again_and_again(source.clone(), watched.since(), interval);
    let mut terminal = ratatui::try_init()?;
    let shown = run(&mut terminal, watched, &answers);
    ratatui::try_restore()?;
    shown
}

/// Asks from a thread of its own, so that a key is heard while weir does not answer. The thread ends with the receiver.
fn ask_again_and_again(source: Source, mut since: u64, interval: Duration) -> Receiver<Result<Overview, String>> {
    let (answers, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut started = None;
        loop {
            let asked_at = Instant::now();
            let mut answer = source.ask(since);
            // The numbers of another process' seconds are others.
            if let Ok(overview) = &answer
                && started
                    .replace(overview.weir.started_unix_ms)
                    .is_some_and(|one| one != overview.weir.started_unix_ms)
            {
                answer = source.ask(0);
            }
            if let Ok(overview) = &answer {
                since = overview.history.second;
            }
            if answers.send(answer).is_err() {
                return;
            }
            thread::sleep(interval.saturating_sub(asked_at.elapsed()));
        }
    });
    receiver
}

fn run(
    terminal: &mut DefaultTerminal,
    mut watched: Watched,
    answers: &Receiver<Result<Overview, String>>,
) -> io::Result<()> {
    let (mut choices, mut drawn_at) = (Choices::default(), None::<Instant>);
    // What was watched when it was paused: that is shown until the pause is over.
    let mut paused = None::<Watched>;
    loop {
        let mut has_changed = false;
        match answers.recv_timeout(LOOK) {
            Ok(Ok(answer)) => {
                watched.take(answer);
                has_changed = paused.is_none();
            }
            Ok(Err(why)) => (watched.failed, has_changed) = (Some(why), true),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        while event::poll(Duration::ZERO)? {
            match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => {
                    if !pressed(key, &mut choices) {
                        return Ok(());
                    }
                    has_changed = true;
                }
                Event::Resize(..) => has_changed = true,
                _ => {}
            }
        }
        if choices.is_paused != paused.is_some() {
            paused = choices.is_paused.then(|| watched.clone());
        }
        let is_late = watched.got_at.elapsed() > LATE && drawn_at.is_none_or(|at| at.elapsed() > LOOK * 10);
        if has_changed || is_late || drawn_at.is_none() {
            terminal.draw(|frame| draw(frame, paused.as_ref().unwrap_or(&watched), &mut choices))?;
            drawn_at = Some(Instant::now());
        }
    }
}

/// What a key does; `false` for one that ends it.
fn pressed(key: KeyEvent, choices: &mut Choices) -> bool {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => return false,
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return false,
        KeyCode::Char('p' | ' ') => choices.is_paused = !choices.is_paused,
        KeyCode::Char('s') => choices.sort = choices.sort.next(),
        KeyCode::Char(digit @ '1'..='9') => choices.toggle(digit as usize - '1' as usize),
        KeyCode::Up | KeyCode::Char('k') => choices.scrolled = choices.scrolled.saturating_sub(1),
        KeyCode::Down | KeyCode::Char('j') => choices.scrolled += 1,
        KeyCode::PageUp => choices.scrolled = choices.scrolled.saturating_sub(10),
        KeyCode::PageDown => choices.scrolled += 10,
        KeyCode::Home | KeyCode::Char('g') => choices.scrolled = 0,
        _ => {}
    }
    true
}

/// Draws a frame: what is watched, scrolled as far as there is something, and the keys below.
fn draw(frame: &mut Frame<'_>, watched: &Watched, choices: &mut Choices) {
    let [body, foot] = Layout::vertical([Constraint::Min(1), Constraint::Length(1)]).areas(frame.area());
    let lines = view::lines(watched, choices, body.width.into());
    choices.scrolled = choices.scrolled.min(lines.len().saturating_sub(body.height.into()));
    let scrolled = u16::try_from(choices.scrolled).unwrap_or(u16::MAX);
    frame.render_widget(Paragraph::new(Text::from(lines)).scroll((scrolled, 0)), body);
    frame.render_widget(view::keys(choices), foot);
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    fn screen(watched: &Watched, choices: &mut Choices, (width, height): (u16, u16)) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, watched, choices)).unwrap();
        terminal.backend().to_string()
    }

    fn key(code: KeyCode) -> KeyEvent {
        KeyEvent::new(code, KeyModifiers::NONE)
    }

    #[test]
    fn keys_choose_and_the_screen_follows() {
        let (watched, mut choices) = (view::tests::storm(), Choices::default());
        let whole = screen(&watched, &mut choices, (120, 60));
        assert!(whole.contains("hold_expired") && whole.contains("BATCH") && whole.contains("q quit"), "{whole}");
        assert!(pressed(key(KeyCode::Char('2')), &mut choices));
        let without = screen(&watched, &mut choices, (120, 60));
        assert!(!without.contains("hold_expired") && without.contains("BATCH"), "{without}");
        // It scrolls no farther than there is something.
        let small = (80, 10);
        assert!(screen(&watched, &mut choices, small).contains("weir 1.2.3"));
        (0..99).for_each(|_| assert!(pressed(key(KeyCode::PageDown), &mut choices)));
        let end = screen(&watched, &mut choices, small);
        assert!(!end.contains("weir 1.2.3") && end.contains("192.0.2.7") && end.contains("q quit"), "{end}");
        assert!(pressed(key(KeyCode::Home), &mut choices));
        assert!(screen(&watched, &mut choices, small).contains("weir 1.2.3"));
        assert!(pressed(key(KeyCode::Char(' ')), &mut choices) && choices.is_paused);
        assert!(screen(&watched, &mut choices, (120, 60)).contains("paused"));
        for code in [KeyCode::Char('q'), KeyCode::Esc] {
            assert!(!pressed(key(code), &mut choices));
        }
        assert!(!pressed(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL), &mut choices));
        assert!(pressed(key(KeyCode::Char('c')), &mut choices));
    }

    #[test]
    fn any_size_of_a_terminal_is_drawn() {
        let watched = view::tests::storm();
        for size in [(1, 1), (20, 3), (40, 20), (79, 24), (300, 100)] {
            screen(&watched, &mut Choices::default(), size);
        }
    }
}
