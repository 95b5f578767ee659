import { useCallback, useLayoutEffect, useState } from "preact/hooks";
import { useClient, useStatus } from "@threadline/client/react";
import { Chat } from "./chat.js";
import { Banner } from "./connection.js";
import { Drafts } from "./drafts.js";
import { Notice } from "./notice.js";
import { Telling, useNotice } from "./notices.js";
import { Operations } from "./operations/operations.js";
import { Palette } from "./palette.js";
import { addressOf, go, newThreadId, usePlace } from "./place.js";
import type { Place } from "./place.js";
import { Plugs } from "./plugs.js";
import { SignIn } from "./signin.js";
import { Sidebar } from "./sidebar.js";
import { samePerson, token } from "./configuration.js";
import { useThreads } from "./threads.js";

/** The whole page: threads at the side, and a conversation or the fleet. */
export function App({ onLeave }: { readonly onLeave: (() => void) | null }) {
  const place = usePlace();
  const client = useClient();
  const status = useStatus();
  const threads = useThreads();
  const [notice, tell] = useNotice();
  // open in one place: whoever goes elsewhere has left it, and nothing has to close it a moment later
  const [drawer, setDrawer] = useState<Place | null>(null);
  const [palette, setPalette] = useState(false);
  const [plugs, setPlugs] = useState(false);
  const [drafts] = useState(() => new Drafts());
  const [newId, setNewId] = useState(newThreadId);
  const [begun, setBegun] = useState(0);
  const chosen = place.view === "chat" ? place.thread_id : null;

  const begin = useCallback(() => {
    setBegun((times) => times + 1);
    setDrawer(null);
    go("");
  }, []);
  useShortcuts({ palette: () => setPalette((open) => !open), begin });

  if (status.state === "refused" && onLeave) {
    return (
      <SignIn
        refused={status.error?.message ?? "The token was refused."}
        onToken={(given) => {
          const stays = samePerson(token.get(), given);
          token.set(given);
          if (stays) client.reconnect();
          else location.reload(); // nothing of the one before is left for the next
        }}
      />
    );
  }
  const shown = chosen ?? newId;
  return (
    <Telling.Provider value={tell}>
      <div class={`page${drawer === place ? " with-drawer" : ""}`}>
        <Sidebar
          threads={threads}
          chosen={chosen}
          place={place.view}
          onBegin={begin}
          onChosen={() => setDrawer(null)}
          onSearch={() => {
            setDrawer(null);
            setPalette(true);
          }}
          onLeave={onLeave}
        />
        <button type="button" class="shade" aria-label="Close the list of threads" onClick={() => setDrawer(null)} />
        <div class="stage">
          <Banner />
          {place.view === "operations" ? (
            <Operations onMenu={() => setDrawer(place)} />
          ) : (
            <Chat
              key={shown}
              id={shown}
              summary={threads.all.find((one) => one.thread_id === shown) ?? null}
              drafts={drafts}
              begun={begun}
              plugs={plugs}
              onPlugs={() => setPlugs((open) => !open)}
              onMenu={() => setDrawer(place)}
              onSending={() => {
                if (chosen !== null) return;
                // at once: when the acknowledgement comes, the person may be elsewhere, and stays there
                setNewId(newThreadId());
                go(addressOf(shown), true);
              }}
              onSent={threads.refresh}
              onChanged={threads.refresh}
            />
          )}
        </div>
        {plugs && place.view === "chat" && <Plugs thread_id={shown} onClose={() => setPlugs(false)} />}
        {palette && <Palette threads={threads.all} onBegin={begin} onClose={() => setPalette(false)} />}
        <Notice notice={notice} />
      </div>
    </Telling.Provider>
  );
}

function useShortcuts({ palette, begin }: { readonly palette: () => void; readonly begin: () => void }): void {
  useLayoutEffect(() => {
    const pressed = (event: KeyboardEvent): void => {
      if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
      const key = event.key.toLowerCase();
      if (key === "k") palette();
      else if (key === "o" && event.shiftKey) begin();
      else return;
      event.preventDefault();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  });
}
