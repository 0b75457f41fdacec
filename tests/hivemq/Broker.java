import com.hivemq.HiveMQServer;
import com.hivemq.configuration.service.InternalConfigurations;

/** HiveMQ as it is, but for everybody: without an extension for security it lets nobody in. */
public class Broker {
  public static void main(String[] args) throws Exception {
    InternalConfigurations.AUTH_DENY_UNAUTHENTICATED_CONNECTIONS.set(false);
    HiveMQServer.main(args);
  }
}
