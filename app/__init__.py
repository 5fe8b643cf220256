"""The Streamlit app: access to what `nba` computes, never arithmetic."""
