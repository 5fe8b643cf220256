"""Who is looking: sign-in through Streamlit's OpenID Connect, and a role from the workspace's settings."""

from dataclasses import dataclass
from typing import NoReturn

import streamlit as st

from app.messages import plain, say
from nba import settings

VIEWER, APPROVER = "viewer", "approver"


@dataclass(frozen=True)
class Role:
    """What somebody may do.

    Attributes:
        name: viewer or approver.
        sees_personal: Whether personal data are shown.
        who: The address signed in with; empty where nobody has to.
    """

    name: str
    sees_personal: bool
    who: str = ""

    @property
    def approves(self) -> bool:
        """Say whether the role may approve."""
        return self.name == APPROVER


NOBODY = Role(VIEWER, sees_personal=False)


def role_of(email: str, given: settings.App) -> Role | None:
    """Give the role of an address; None where it may not look.

    Example:
        >>> shop = settings.App(sign_in=True, viewers=("@shop.example",), approvers=("ana@shop.example",))
        >>> role_of("Ana@shop.example", shop).name, role_of("x@shop.example", shop).name
        ('approver', 'viewer')
        >>> role_of("x@other.example", shop) is None
        True
    """
    if _is_among(email, given.approvers):
        name = APPROVER
    elif _is_among(email, given.viewers) or not given.viewers:
        name = VIEWER
    else:
        return None
    return Role(name, name in given.personal_data, email)


def enter(given: settings.App) -> Role:
    """Let somebody in, or show the way to sign in and stop the page."""
    if not given.sign_in:
        return Role(given.open_role, given.open_role in given.personal_data)
    if not _is_configured():
        _stop(say("access.unconfigured"))
    if not st.user.get("is_logged_in"):
        st.title(say("app.title"))
        st.markdown(say("access.asked"))
        st.button(say("access.sign_in"), on_click=st.login, type="primary")
        st.stop()
    email = str(st.user.get("email") or "")
    # An address that its provider has not verified could be anybody's; some providers say nothing of it.
    is_verified = st.user.get("email_verified", True) is True
    role = role_of(email, given) if email and is_verified else None
    if role is None:
        _leave(email)
        _stop(say("access.refused", who=plain(email or say("unknown"))))
    return role


def leaving(role: Role) -> None:
    """Show who is signed in and the way out: once a run, however many workspaces were asked."""
    if role.who:
        _leave(role.who)


def _is_among(email: str, allowed: tuple[str, ...]) -> bool:
    address = email.strip().lower()
    return any(
        address.endswith(entry.lower()) if entry.startswith("@") else address == entry.lower()
        for entry in allowed
    )


def _is_configured() -> bool:
    try:
        return "auth" in st.secrets
    except FileNotFoundError:
        return False


def _leave(email: str) -> None:
    st.sidebar.caption(say("access.signed_in", who=plain(email)))
    st.sidebar.button(say("access.sign_out"), on_click=st.logout, type="tertiary")


def _stop(text: str) -> NoReturn:
    st.error(text, icon=":material/lock:")
    st.stop()
