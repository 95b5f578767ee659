import { render } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";
import { connect } from "@threadline/client";
import { ThreadlineProvider } from "@threadline/client/react";
import { App } from "./app.js";
import { configuration, token } from "./configuration.js";
import { SignIn } from "./signin.js";

function Page() {
  const [known, setKnown] = useState(() => token.get());
  const needed = configuration.token && known === null;
  const client = useMemo(
    () => (needed ? null : connect({ urls: configuration.gateways, token: () => token.get() })),
    [needed, known],
  );
  useEffect(() => {
    if (!client) return;
    const stop = client.subscribe(() => {
      document.documentElement.dataset["connection"] = client.status.state; // for those who measure
    });
    return () => {
      stop();
      client.close();
    };
  }, [client]);
  const leave = (): void => {
    token.forget();
    setKnown(null);
  };
  if (!client) {
    return (
      <SignIn
        onToken={(given) => {
          token.set(given);
          setKnown(given);
        }}
      />
    );
  }
  return (
    <ThreadlineProvider client={client}>
      <App onLeave={configuration.token ? leave : null} />
    </ThreadlineProvider>
  );
}

const place = document.getElementById("page");
if (place) render(<Page />, place);
